//! A node's side: joins the coordinator, runs what it is told to, and ends by itself when the coordinator is gone.

use std::collections::HashMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, lookup_host};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::cluster::hub::{BEAT, SILENCE};
use crate::cluster::message::{Down, Failure, Join, Up, reachable};
use crate::cluster::secure::{self, ChannelError, MAX_MESSAGE, Receiver, Sender, Token};
use crate::cluster::wire::Blob;
use crate::cluster::worker::{Channel, Interrupt, Remote, Supervisor};
use crate::cluster::{Meeting, Permit};
use crate::files::{self, Readers};
use crate::id::{NodeName, clean};
use crate::measure::FailKind;

/// The coordinator beats every second; after so long without it has died, or the network has.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longest that a task waits for rank 0 to end first.
const LAST: Duration = Duration::from_secs(5);
/// So many refusals in a row are no accident: they are told, and the calls go on.
const REFUSALS: u32 = 3;

/// Why an agent is not, or no longer, part of the run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("cannot reach rank 0 at {meeting} within {waited} s: {last}; is rank 0 running there, and is the port open between the nodes?", waited = .waited.as_secs())]
    Unreachable { meeting: String, waited: Duration, last: String },
    #[error(
        "what answers at {0} does not hold this node's token, or has no room at its door yet; give every node the same GONOGO_TOKEN (or another --rendezvous, if the port is somebody else's)"
    )]
    OtherToken(String),
    #[error("the coordinator refused this node: {0}")]
    Refused(String),
    #[error("the coordinator at {address} is gone ({why}): this node ends without a verdict")]
    Lost { address: SocketAddr, why: String },
    #[error("interrupted")]
    Interrupted,
    #[error("cannot start the agent: {0}")]
    Start(std::io::Error),
}

/// The two halves of a channel to the coordinator.
type Halves = (Sender, Receiver);

/// Calls until somebody with the token answers and welcomes, or `deadline`.
pub async fn join(
    meeting: &Meeting,
    token: &Token,
    who: &Join,
    patience: Duration,
) -> Result<(Sender, Receiver, NodeName, (SocketAddr, IpAddr)), AgentError> {
    let first = Up::Join(Box::new(who.clone()));
    call_until(meeting, patience, || attempt(meeting, token, &first)).await.map(|(halves, answer, at)| {
        let node = if let Down::Welcome { node } = answer { node } else { NodeName(who.host.clone()) };
        (halves.0, halves.1, node, at)
    })
}

/// Waits for the verdict of the run, as its tasks that are no agents do: the code to end with.
pub fn wait_for_verdict(
    meeting: &Meeting,
    token: &Token,
    job: &str,
    patience: Duration,
    interrupt: &Interrupt,
) -> Result<u8, AgentError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AgentError::Start)?;
    let first = Up::Wait { job: job.to_owned() };
    let verdict = async {
        let ((mut sender, mut receiver), first, (address, _)) =
            call_until(meeting, patience, || attempt(meeting, token, &first)).await?;
        // Who says nothing is taken for dead.
        let beats = async {
            let alive = serde_json::to_vec(&Up::Alive).unwrap_or_default();
            while sender.send(&alive, SILENCE).await.is_ok() {
                tokio::time::sleep(BEAT).await;
            }
            // That the channel is closed is told by its other half.
            std::future::pending::<()>().await;
        };
        let heard = async {
            let mut said = first;
            loop {
                match said {
                    Down::Bye { exit } => {
                        let gone = async { while receiver.receive(MAX_MESSAGE, PATIENCE).await.is_ok() {} };
                        let _ = tokio::time::timeout(LAST, gone).await;
                        return Ok(exit);
                    }
                    Down::Refused { why } => return Err(AgentError::Refused(clean(&why).into_owned())),
                    _ => {}
                }
                let lost = |why: String| AgentError::Lost { address, why };
                let message = receiver.receive(MAX_MESSAGE, PATIENCE).await.map_err(|e| lost(e.to_string()))?;
                said = Down::of(&message).map_err(|e| lost(e.to_string()))?;
            }
        };
        tokio::select! { out = heard => out, () = beats => Err(AgentError::Interrupted) }
    };
    let interrupted = async {
        while !interrupt.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    runtime.block_on(async {
        tokio::select! { out = verdict => out, () = interrupted => Err(AgentError::Interrupted) }
    })
}

type Answered = (Halves, Down, (SocketAddr, IpAddr));

/// Calls until an attempt is answered. Where we meet may be stale, and who answers there somebody else: only the deadline, or a refusal
/// by the run itself, is an end.
async fn call_until<F>(
    meeting: &Meeting,
    patience: Duration,
    mut attempt: impl FnMut() -> F,
) -> Result<Answered, AgentError>
where
    F: Future<Output = Result<Answered, Attempt>>,
{
    let started = Instant::now();
    let (mut refused, mut pause) = (0, Duration::from_millis(20));
    loop {
        let last = match tokio::time::timeout(secure::HANDSHAKE * 2, attempt()).await {
            Ok(Ok(answered)) => return Ok(answered),
            Ok(Err(Attempt::Refused(why))) => return Err(AgentError::Refused(why)),
            Ok(Err(Attempt::NotHere(why))) => AgentError::Refused(why),
            Ok(Err(Attempt::Token(address))) => AgentError::OtherToken(address),
            Ok(Err(Attempt::Unreachable(last))) => unreachable(meeting, patience, last),
            Err(_) => unreachable(meeting, patience, "no answer".to_owned()),
        };
        refused = if matches!(last, AgentError::Unreachable { .. }) { 0 } else { refused + 1 };
        if refused == REFUSALS {
            let left = patience.saturating_sub(started.elapsed());
            eprintln!("gonogo: {last}; calling on for {} s", left.as_secs());
        }
        if started.elapsed() >= patience {
            return Err(last);
        }
        // Thousands wait for one: they must not call in step.
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

fn unreachable(meeting: &Meeting, waited: Duration, last: String) -> AgentError {
    AgentError::Unreachable { meeting: meeting.to_string(), waited, last }
}

enum Attempt {
    Unreachable(String),
    Token(String),
    /// Another run answers here.
    NotHere(String),
    Refused(String),
}

/// One call at every place where rank 0 may be. Only who holds the token is an answer.
async fn attempt(meeting: &Meeting, token: &Token, first: &Up) -> Result<Answered, Attempt> {
    let unreachable = |what: String| Attempt::Unreachable(what);
    let places = match meeting {
        Meeting::At { host, port, spares } => (*port..=port + spares).map(|p| (host.clone(), p)).collect(),
        Meeting::File(path) => {
            read_meeting(path).ok_or_else(|| unreachable(format!("{} is not there yet", path.display())))?
        }
    };
    let mut last = "no address".to_owned();
    // Somebody else at one of the places says nothing of the others.
    let mut elsewhere = None;
    for (host, port) in places {
        let addresses = match lookup_host((host.as_str(), port)).await {
            Ok(addresses) => addresses,
            Err(e) => {
                last = format!("{} does not resolve: {e}", clean(&host));
                continue;
            }
        };
        for address in addresses {
            let stream = match tokio::time::timeout(secure::HANDSHAKE, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(e)) => {
                    last = format!("{address}: {e}");
                    continue;
                }
                Err(_) => {
                    last = format!("{address}: no answer");
                    continue;
                }
            };
            let own = stream.local_addr().map_or(address.ip(), |a| a.ip());
            let (mut sender, mut receiver) = match secure::call(stream, token).await {
                Ok(halves) => halves,
                Err(ChannelError::Unauthenticated | ChannelError::Closed | ChannelError::Junk(_)) => {
                    elsewhere = Some(Attempt::Token(address.to_string()));
                    continue;
                }
                Err(e) => {
                    last = format!("{address}: {e}");
                    continue;
                }
            };
            let join = serde_json::to_vec(first).unwrap_or_default();
            let answer = async {
                sender.send(&join, SILENCE).await?;
                loop {
                    let message = receiver.receive(MAX_MESSAGE, PATIENCE).await?;
                    match Down::of(&message) {
                        Ok(Down::Alive) => {}
                        Ok(other) => return Ok::<Down, ChannelError>(other),
                        Err(e) => return Err(ChannelError::Junk(e.to_string())),
                    }
                }
            };
            // A kernel socket maps IPv4 into IPv6 where both are served by one.
            let own = reachable(own.to_canonical());
            match answer.await {
                Ok(welcome @ (Down::Welcome { .. } | Down::Wait)) => {
                    return Ok(((sender, receiver), welcome, (address, own)));
                }
                Ok(Down::Refused { why }) => return Err(Attempt::Refused(clean(&why).into_owned())),
                Ok(Down::NotHere { why }) => elsewhere = Some(Attempt::NotHere(clean(&why).into_owned())),
                Ok(_) => last = format!("{address}: an answer out of turn"),
                Err(e) => last = format!("{address}: {e}"),
            }
        }
    }
    Err(elsewhere.unwrap_or(Attempt::Unreachable(last)))
}

/// Rank 0's side of a rendezvous by file: `HOST PORT` lines, the best first, whole or not at all.
pub fn write_meeting(path: &Path, host: &str, port: u16) -> std::io::Result<()> {
    let mut text = format!("{host} {port}\n");
    for ip in if_addrs::get_if_addrs().unwrap_or_default().into_iter().map(|i| i.ip()).filter(|ip| !ip.is_loopback()) {
        text.push_str(&format!("{ip} {port}\n"));
    }
    files::replace(path, Readers::Owner, |file| file.write_all(text.as_bytes()))
}

/// Takes the file away once nobody needs it, or nobody will: only one that leads to this port of rank 0.
pub fn remove_meeting(path: &Path, port: u16) {
    if read_meeting(path).is_some_and(|places| places.iter().all(|(_, p)| *p == port)) {
        let _ = std::fs::remove_file(path);
    }
}

fn read_meeting(path: &Path) -> Option<Vec<(String, u16)>> {
    let text = files::open(path).and_then(|f| files::read_text(f, 8192)).ok()?;
    let places: Vec<_> = text
        .lines()
        .take(32)
        .filter_map(|l| {
            let (host, port) = l.split_once(' ')?;
            Some((host.to_owned(), port.parse().ok()?))
        })
        .collect();
    (!places.is_empty()).then_some(places)
}

/// An agent that has joined.
pub struct Agent {
    pub node: NodeName,
    /// Where the coordinator is.
    pub coordinator: SocketAddr,
    /// This node's address for its peers.
    pub address: IpAddr,
    inbox: mpsc::Receiver<Result<Down, String>>,
    outbox: UnboundedSender<Up>,
}

impl Agent {
    /// Joins, and keeps the connection alive from then on in a thread of its own.
    pub fn join(meeting: &Meeting, token: &Token, who: &Join, patience: Duration) -> Result<Self, AgentError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AgentError::Start)?;
        let (sender, receiver, node, (coordinator, address)) = runtime.block_on(join(meeting, token, who, patience))?;
        let (to_agent, inbox) = mpsc::channel();
        let (outbox, queue) = unbounded_channel();
        thread::Builder::new()
            .name("agent".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let why = tokio::select! {
                        why = speak(sender, queue) => why,
                        why = listen(receiver, &to_agent) => why,
                    };
                    let _ = to_agent.send(Err(why));
                });
            })
            .map_err(AgentError::Start)?;
        Ok(Agent { node, coordinator, address, inbox, outbox })
    }

    /// Runs what the coordinator says, as far as this node's own plan allows it, until all is done; returns the code to end with.
    pub fn serve(&self, supervisor: &Arc<Supervisor>, permit: &Permit) -> Result<u8, AgentError> {
        let mut running: HashMap<u64, Remote> = HashMap::new();
        let mut threads = Vec::new();
        let result = loop {
            if supervisor.interrupt.load(Ordering::Relaxed) {
                break Err(AgentError::Interrupted);
            }
            match self.inbox.recv_timeout(Duration::from_millis(100)) {
                Ok(Ok(Down::Run { task, step, group, at_most_ms })) => {
                    let placement = match permit.place(&step, group, &self.node) {
                        Ok(placement) => placement,
                        Err(why) => {
                            let error = format!("it refused the step: {why}");
                            let failure = Some(Failure { kind: FailKind::Error, error });
                            let _ = self.outbox.send(Up::Ended { task, failure });
                            continue;
                        }
                    };
                    let channel = Channel::new();
                    running.insert(task, channel.remote());
                    let (outbox, supervisor, address) = (self.outbox.clone(), Arc::clone(supervisor), self.address);
                    threads.push(thread::spawn(move || {
                        let publish = |blobs: Vec<Blob>| {
                            let _ = outbox.send(Up::Publish { task, blobs });
                        };
                        let at_most = Duration::from_millis(at_most_ms);
                        let failure = supervisor.run_seated(
                            &step,
                            &placement,
                            address,
                            channel,
                            at_most,
                            &publish,
                            |case, outcome, load| {
                                let _ = outbox.send(Up::Outcome { task, case, outcome: Box::new(outcome), load });
                            },
                        );
                        let _ = outbox.send(Up::Ended { task, failure });
                    }));
                    threads.retain(|t| !t.is_finished());
                }
                Ok(Ok(Down::All { task, blobs })) => {
                    if let Some(remote) = running.get(&task) {
                        remote.all(blobs);
                    }
                }
                Ok(Ok(Down::Stop { task })) => {
                    if let Some(remote) = running.remove(&task) {
                        remote.stop();
                    }
                }
                Ok(Ok(Down::Bye { exit })) => {
                    let _ = self.outbox.send(Up::Leaving);
                    // A launcher may end the run with the first task that fails, and with it what rank 0 still has to say.
                    let end = Instant::now() + LAST;
                    while let Ok(Ok(_)) | Err(RecvTimeoutError::Timeout) =
                        self.inbox.recv_timeout(Duration::from_millis(50))
                        && Instant::now() < end
                    {}
                    break Ok(exit);
                }
                Ok(Ok(Down::Refused { why } | Down::NotHere { why })) => {
                    break Err(AgentError::Refused(clean(&why).into_owned()));
                }
                Ok(Ok(Down::Alive | Down::Wait | Down::Welcome { .. })) => {}
                Ok(Err(why)) => break Err(AgentError::Lost { address: self.coordinator, why }),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    break Err(AgentError::Lost {
                        address: self.coordinator,
                        why: "the connection's thread ended".to_owned(),
                    });
                }
            }
        };
        for remote in running.values() {
            remote.stop();
        }
        for thread in threads {
            let _ = thread.join();
        }
        result
    }
}

async fn speak(mut sender: Sender, mut queue: UnboundedReceiver<Up>) -> String {
    loop {
        let message = match tokio::time::timeout(BEAT, queue.recv()).await {
            Ok(Some(message)) => message,
            Ok(None) => return "this agent ended".to_owned(),
            Err(_) => Up::Alive,
        };
        let bytes = serde_json::to_vec(&message).unwrap_or_default();
        if let Err(error) = sender.send(&bytes, PATIENCE).await {
            return error.to_string();
        }
    }
}

async fn listen(mut receiver: Receiver, events: &mpsc::Sender<Result<Down, String>>) -> String {
    loop {
        let message = match receiver.receive(MAX_MESSAGE, PATIENCE).await {
            Ok(message) => message,
            Err(error) => return error.to_string(),
        };
        match Down::of(&message) {
            Ok(Down::Alive) => {}
            Ok(down) => {
                if events.send(Ok(down)).is_err() {
                    return "this agent ended".to_owned();
                }
            }
            Err(error) => return format!("it sent what is not gonogo's protocol: {error}"),
        }
    }
}
