//! A node's side: joins the coordinator, runs what it is told to, and ends by itself when the coordinator is gone.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, lookup_host};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::cluster::Meeting;
use crate::cluster::hub::{BEAT, SILENCE};
use crate::cluster::message::{Down, Join, Up, reachable};
use crate::cluster::secure::{self, ChannelError, MAX_MESSAGE, Receiver, Sender, Token};
use crate::cluster::worker::{Channel, Remote, Supervisor};
use crate::id::{NodeName, clean};

/// The coordinator beats every second; after so long without it has died, or the network has.
const PATIENCE: Duration = Duration::from_secs(15);
/// So many handshakes refused in a row are no accident.
const REFUSALS: u32 = 3;

/// Why an agent is not, or no longer, part of the run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("cannot reach rank 0 at {meeting} within {waited} s: {last}; is rank 0 running there, and is the port open between the nodes?", waited = .waited.as_secs())]
    Unreachable { meeting: String, waited: Duration, last: String },
    #[error(
        "what answers at {0} does not hold this node's token; give every node the same GONOGO_TOKEN (or another --rendezvous, if the port is somebody else's)"
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

/// Calls until somebody with the token answers and welcomes, or `deadline`.
pub async fn join(
    meeting: &Meeting,
    token: &Token,
    who: &Join,
    patience: Duration,
) -> Result<(Sender, Receiver, NodeName, (SocketAddr, IpAddr)), AgentError> {
    let started = Instant::now();
    let (mut refused, mut pause) = (0, Duration::from_millis(20));
    loop {
        let attempt = tokio::time::timeout(secure::HANDSHAKE * 2, attempt(meeting, token, who)).await;
        let last = match attempt {
            Ok(Ok(welcome)) => return Ok(welcome),
            Ok(Err(Attempt::Refused(why))) => return Err(AgentError::Refused(why)),
            Ok(Err(Attempt::Token(address))) => {
                refused += 1;
                if refused == REFUSALS {
                    return Err(AgentError::OtherToken(address));
                }
                "the handshake was refused".to_owned()
            }
            Ok(Err(Attempt::Unreachable(why))) => why,
            Err(_) => "no answer".to_owned(),
        };
        if started.elapsed() >= patience {
            return Err(AgentError::Unreachable { meeting: meeting.to_string(), waited: patience, last });
        }
        // Thousands wait for one: they must not call in step.
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

enum Attempt {
    Unreachable(String),
    Token(String),
    Refused(String),
}

async fn attempt(
    meeting: &Meeting,
    token: &Token,
    who: &Join,
) -> Result<(Sender, Receiver, NodeName, (SocketAddr, IpAddr)), Attempt> {
    let unreachable = |what: String| Attempt::Unreachable(what);
    let places = match meeting {
        Meeting::At { host, port } => vec![(host.clone(), *port)],
        Meeting::File(path) => {
            read_meeting(path).ok_or_else(|| unreachable(format!("{} is not there yet", path.display())))?
        }
    };
    let mut last = "no address".to_owned();
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
                Err(ChannelError::Stranger | ChannelError::Closed | ChannelError::Junk(_)) => {
                    return Err(Attempt::Token(address.to_string()));
                }
                Err(e) => {
                    last = format!("{address}: {e}");
                    continue;
                }
            };
            let join = serde_json::to_vec(&Up::Join(Box::new(who.clone()))).unwrap_or_default();
            let answer = async {
                sender.send(&join, SILENCE).await?;
                loop {
                    let message = receiver.receive(MAX_MESSAGE, PATIENCE).await?;
                    match serde_json::from_slice(&message) {
                        Ok(Down::Alive) => {}
                        Ok(other) => return Ok::<Down, ChannelError>(other),
                        Err(e) => return Err(ChannelError::Junk(e.to_string())),
                    }
                }
            };
            // A kernel socket maps IPv4 into IPv6 where both are served by one.
            let own = reachable(own.to_canonical());
            match answer.await {
                Ok(Down::Welcome { node }) => return Ok((sender, receiver, node, (address, own))),
                Ok(Down::Refused { why }) => return Err(Attempt::Refused(clean(&why).into_owned())),
                Ok(_) => return Err(unreachable(format!("{address}: an answer out of turn"))),
                Err(e) => last = format!("{address}: {e}"),
            }
        }
    }
    Err(Attempt::Unreachable(last))
}

/// Rank 0's side of a rendezvous by file: `HOST PORT` lines, the best first, whole or not at all.
pub fn write_meeting(path: &Path, host: &str, port: u16) -> std::io::Result<()> {
    let mut text = format!("{host} {port}\n");
    for ip in if_addrs::get_if_addrs().unwrap_or_default().into_iter().map(|i| i.ip()).filter(|ip| !ip.is_loopback()) {
        text.push_str(&format!("{ip} {port}\n"));
    }
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&temporary, text)?;
    std::fs::rename(&temporary, path)
}

fn read_meeting(path: &Path) -> Option<Vec<(String, u16)>> {
    let text = std::fs::read_to_string(path).ok().filter(|t| t.len() < 8192)?;
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

    /// Runs what the coordinator says until its Bye.
    pub fn serve(&self, supervisor: &Arc<Supervisor>) -> Result<(), AgentError> {
        let mut running: HashMap<u64, Remote> = HashMap::new();
        let mut threads = Vec::new();
        let result = loop {
            if supervisor.interrupt.load(Ordering::Relaxed) {
                break Err(AgentError::Interrupted);
            }
            match self.inbox.recv_timeout(Duration::from_millis(100)) {
                Ok(Ok(Down::Run { task, step, seat, at_most_ms })) => {
                    let channel = Channel::new();
                    running.insert(task, channel.remote());
                    let (outbox, supervisor, address) = (self.outbox.clone(), Arc::clone(supervisor), self.address);
                    threads.push(thread::spawn(move || {
                        let publish = |blobs: Vec<String>| {
                            let _ = outbox.send(Up::Publish { task, blobs });
                        };
                        let at_most = Duration::from_millis(at_most_ms);
                        let failure = supervisor.run_seated(
                            &step,
                            &seat,
                            address,
                            channel,
                            at_most,
                            &publish,
                            |case, outcome, load| {
                                let _ = outbox.send(Up::Outcome {
                                    task,
                                    case: case.to_owned(),
                                    outcome: Box::new(outcome),
                                    load,
                                });
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
                Ok(Ok(Down::Bye)) => break Ok(()),
                Ok(Ok(Down::Refused { why })) => break Err(AgentError::Refused(clean(&why).into_owned())),
                Ok(Ok(Down::Alive | Down::Welcome { .. })) => {}
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
        match serde_json::from_slice(&message) {
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
