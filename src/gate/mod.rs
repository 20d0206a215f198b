//! Opening or holding the gate: what must be true of a record before a command is started on its strength, and the
//! signed ticket that carries a verdict elsewhere. Pure but for `launch`; the clock is handed in.

mod admit;
mod launch;
mod ticket;

pub use admit::{Claim, Refusal, admit};
pub use launch::{Launch, software_digest};
pub use ticket::{FORMAT as TICKET_FORMAT, KeyError, Ticket, TicketError, new_key, read_secret, read_trusted};
