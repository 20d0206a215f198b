//! Samples: what is measured, how it is sampled, what a probe says of it. Facts only.

mod busbw;
mod carried;
mod clock;
mod counters;
mod interfaces;
mod load;
mod outcome;
mod pace;
mod rehearsal;
mod remains;
mod sampler;
mod since;
mod slow;
pub mod stats;
mod watched;

pub use busbw::bus_factor;
pub use carried::{Carried, Towards};
pub use clock::resolution;
pub use counters::{Counters, CountersMoved, sent_again};
pub use interfaces::{Interfaces, LinkEnd, LinkState, Segments, Transport};
pub use load::{Load, LoadMeter, waited_for_core};
pub use outcome::{
    Bits, Bound, Capture, Check, ClockOffset, Facts, FailKind, GpuLoad, Latencies, Measured, Outcome, PeerCopy,
    RdmaEnd, Series, SharedView, WaiveKind,
};
pub use pace::{Pace, PaceMeter};
pub use rehearsal::{RankSteps, Rehearsal, Timed};
pub use remains::{Change, Part, Place, Remains, Sign, Source, SourceKind, Stall, Trace, Wired};
pub use sampler::{Sampler, Samples, Stopwatch};
pub use since::{OwnNode, Since};
pub use slow::{Slow, Speed, fast_end, slow};
pub use watched::{Cold, Save, SaveState, Space, SpaceBound, Trouble, Watched};
