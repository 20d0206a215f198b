//! Steps, the processes that run them, the nodes that these run on, and what passes between.
//!
//! A step runs in child processes. Parent and child speak JSON lines over the child's stdin and stdout ([`wire`]);
//! `worker` is the parent's side and keeps the deadline; `process` is one child as the parent holds it, `pool` keeps the GPU processes
//! between steps; `child` is the child's side. The one primitive that ranks bootstrap with is
//! the exchange: each publishes a text, all receive all texts in rank order.
//!
//! In a cluster ([`World`]) every node runs an [`Agent`]; rank 0 also hosts the [`Coordinator`], which hands out steps
//! and serves the exchanges of groups. `secure` is the channel between them, `hub` the coordinator's sockets, `message`
//! the words.

mod agent;
mod child;
mod coordinator;
mod doorstep;
mod hub;
mod key;
pub mod message;
mod permit;
mod pool;
mod process;
pub mod scratch;
pub mod secure;
mod step;
pub mod wire;
mod worker;
mod world;

pub use agent::{Agent, AgentError, join, remove_meeting, wait_for_verdict, write_meeting};
pub use child::{Child, ChildError, Published};
pub use coordinator::{Coordinator, Expected, GroupOutcome, Member, NodeFault};
pub use hub::{Event, Hub, Peer};
pub use key::{PROOF, StepKey, random};
pub use permit::Permit;
pub use secure::{Token, TokenError, VARIABLE as TOKEN_VARIABLE};
pub use step::{PRESENCE, PairRound, Processes, Shape, Step};
pub use worker::{Interrupt, Supervisor};
pub use world::{Asked, DEFAULT_PORT, Job, Launcher, Meeting, World, WorldError, node_name};
