//! Opening or holding the gate: what must be true of a verdict before a command is started on its strength, on which nodes it starts,
//! and the signatures by which a verdict is carried elsewhere. The clock is handed in.

mod admit;
mod launch;
mod seal;
mod ticket;
mod verdict;

pub use admit::{Ask, Refusal, admit};
pub use launch::{Allocation, Launch, Placeholder, software_digest, told_where, write_hostfile};
pub use seal::{KeyError, SealError, new_key, read_secret, read_trusted};
pub use ticket::{FORMAT as TICKET_FORMAT, Ticket, TicketError, check_record, sign_record};
pub use verdict::Verdict;
