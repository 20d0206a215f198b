//! The coordinator's sockets: accepts, authenticates, and turns connections into events. Decides nothing.
//!
//! One thread runs all of it; the coordinator reads [`Event`]s from a channel and sends by [`Hub::send`].

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use crate::cluster::doorstep::Doorstep;
use crate::cluster::message::{Down, Join, MAX_JOIN, Up};
use crate::cluster::secure::{self, ChannelError, MAX_MESSAGE, Receiver, Sender, Token};

/// An agent that says nothing for so long is lost. Agents say something every [`BEAT`].
pub const SILENCE: Duration = Duration::from_secs(6);
pub const BEAT: Duration = Duration::from_secs(1);
/// Most that one agent may say in a run.
const MAX_SAID: usize = 1 << 30;
/// Most addresses that are remembered of callers without the token.
const MAX_UNAUTHENTICATED: usize = 64;

/// A connection's number; never used twice.
pub type Peer = u64;

#[derive(Debug)]
pub enum Event {
    /// A peer that holds the token wants to join.
    Joined(Peer, Box<Join>),
    /// A peer that holds the token waits for the verdict of this world.
    Waits(Peer, String),
    Received(Peer, Up),
    /// The connection is over, and why.
    Gone(Peer, Lost),
}

type Outbox = UnboundedSender<Arc<[u8]>>;

pub struct Hub {
    pub events: mpsc::Receiver<Event>,
    pub address: SocketAddr,
    peers: Arc<Mutex<HashMap<Peer, Outbox>>>,
    unauthenticated: Arc<Mutex<HashMap<IpAddr, u64>>>,
    doorstep: Arc<Mutex<Doorstep>>,
    end: watch::Sender<bool>,
}

impl Hub {
    /// Listens on `port` of one address, or of every one, IPv6 and IPv4. 0 lets the kernel pick.
    pub fn open(at: Option<IpAddr>, port: u16, token: Token) -> io::Result<Self> {
        let listener = match at {
            Some(ip) => std::net::TcpListener::bind((ip, port))?,
            None => {
                let any = [SocketAddr::from(([0u16; 8], port)), SocketAddr::from(([0u8; 4], port))];
                std::net::TcpListener::bind(any[0]).or_else(|_| std::net::TcpListener::bind(any[1]))?
            }
        };
        // Thousands call at once: the queue of those who wait must hold them.
        rustix::net::listen(&listener, 4096)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (sender, events) = mpsc::channel();
        let (end, ended) = watch::channel(false);
        let doorman =
            Doorman { token, sender, peers: Arc::default(), unauthenticated: Arc::default(), doorstep: Arc::default() };
        let (peers, unauthenticated, doorstep) =
            (doorman.peers.clone(), doorman.unauthenticated.clone(), doorman.doorstep.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new()
            .name("hub".to_owned())
            .spawn(move || runtime.block_on(serve(listener, doorman, ended)))?;
        Ok(Hub { events, address, peers, unauthenticated, doorstep, end })
    }

    /// Sends to each of `to`; a peer that is gone is told of by its event.
    pub fn send(&self, to: impl IntoIterator<Item = Peer>, message: &Down) {
        let bytes: Arc<[u8]> = message.to_bytes().into();
        let peers = lock(&self.peers);
        for peer in to {
            if let Some(outbox) = peers.get(&peer) {
                let _ = outbox.send(Arc::clone(&bytes));
            }
        }
    }

    /// Closes a connection once what was sent is out.
    pub fn close(&self, peer: Peer) {
        lock(&self.peers).remove(&peer);
    }

    /// Whether somebody was sent away from the door for lack of room.
    pub fn was_crowded(&self) -> bool {
        lock(&self.doorstep).was_crowded()
    }

    /// Addresses that called without the token, and how often each.
    pub fn unauthenticated(&self) -> Vec<(IpAddr, u64)> {
        let mut out: Vec<_> = lock(&self.unauthenticated).iter().map(|(a, n)| (*a, *n)).collect();
        out.sort_by_key(|(a, n)| (std::cmp::Reverse(*n), *a));
        out
    }
}

/// A hub without sockets, and what a test plays the network with.
#[cfg(test)]
pub(super) struct Detached {
    pub hub: Hub,
    pub events: mpsc::Sender<Event>,
    pub peers: Arc<Mutex<HashMap<Peer, Outbox>>>,
}

#[cfg(test)]
impl Hub {
    pub(super) fn detached() -> Detached {
        let (sender, events) = mpsc::channel();
        let peers: Arc<Mutex<HashMap<Peer, Outbox>>> = Arc::default();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let hub = Hub {
            events,
            address,
            peers: Arc::clone(&peers),
            unauthenticated: Arc::default(),
            doorstep: Arc::default(),
            end: watch::channel(false).0,
        };
        Detached { hub, events: sender, peers }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.end.send(true);
    }
}

#[derive(Clone)]
struct Doorman {
    token: Token,
    sender: mpsc::Sender<Event>,
    peers: Arc<Mutex<HashMap<Peer, Outbox>>>,
    unauthenticated: Arc<Mutex<HashMap<IpAddr, u64>>>,
    doorstep: Arc<Mutex<Doorstep>>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(|e| e.into_inner())
}

impl Doorman {
    fn unauthenticated(&self, from: IpAddr) {
        let mut unauthenticated = lock(&self.unauthenticated);
        if unauthenticated.len() < MAX_UNAUTHENTICATED || unauthenticated.contains_key(&from) {
            *unauthenticated.entry(from).or_default() += 1;
        }
    }
}

async fn serve(listener: std::net::TcpListener, doorman: Doorman, mut ended: watch::Receiver<bool>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let mut next: Peer = 0;
    let accept = async {
        let mut again = 0;
        loop {
            in_turn(&doorman, &mut again).await;
            match listener.accept().await {
                Ok((stream, from)) => {
                    if !lock(&doorman.doorstep).may_try(from.ip(), Instant::now()) {
                        doorman.unauthenticated(from.ip());
                        continue;
                    }
                    next += 1;
                    let task = tokio::spawn(receive(next, stream, from.ip(), doorman.clone()));
                    lock(&doorman.doorstep).come(next, from.ip(), task.abort_handle());
                }
                // Out of descriptors: who has stood longest makes room.
                Err(_) => {
                    lock(&doorman.doorstep).make_room();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    };
    tokio::select! { () = accept => {}, _ = ended.changed() => {} }
    // What is queued (a Bye) goes out.
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// So many may be at the door before the next waits for its turn.
const AT_THE_DOOR: usize = 128;
/// A turn takes no longer: a handshake is a round trip, and thousands of nodes that start are slow.
const TURN: Duration = Duration::from_millis(300);

/// Thousands who call at once wait in the kernel's queue while those before them prove themselves: whoever were let in would only take
/// others' places. Where that was waited for in vain, by those who only stand there, nobody waits until half of them could have proven
/// themselves; `again` is how many must have.
async fn in_turn(doorman: &Doorman, again: &mut usize) {
    let (mut before, mut since) = (None, Instant::now());
    loop {
        let (standing, proven) = lock(&doorman.doorstep).counts();
        if standing < AT_THE_DOOR || proven < *again {
            return;
        }
        if before != Some(proven) {
            (before, since) = (Some(proven), Instant::now());
        } else if since.elapsed() > TURN {
            *again = proven + AT_THE_DOOR / 2;
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Who leaves the doorstep, by whatever way: an end of the task is one.
struct Standing<'a>(&'a Doorman, Peer);

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        lock(&self.0.doorstep).leave(self.1);
    }
}

/// Lets in who holds the token and says what it wants in time.
async fn receive(peer: Peer, stream: TcpStream, from: IpAddr, doorman: Doorman) {
    let standing = Standing(&doorman, peer);
    let answered = secure::answer(stream, &doorman.token, |first| lock(&doorman.doorstep).is_new(first)).await;
    // Who has proven itself is pushed out by nobody.
    drop(standing);
    let proven = match answered {
        Ok((sender, mut receiver)) => match receiver.receive(MAX_JOIN, secure::HANDSHAKE).await {
            Ok(first) => Some((sender, receiver, first)),
            Err(_) => None,
        },
        Err(error) => {
            if matches!(error, ChannelError::Unauthenticated) {
                lock(&doorman.doorstep).wrong(from, Instant::now());
            }
            None
        }
    };
    let Some((sender, receiver, first)) = proven else { return doorman.unauthenticated(from) };
    let event = match serde_json::from_slice(&first) {
        Ok(Up::Join(join)) => Event::Joined(peer, join),
        Ok(Up::Wait { job }) => Event::Waits(peer, job),
        _ => return doorman.unauthenticated(from),
    };
    talk(peer, sender, receiver, event, &doorman).await;
}

async fn talk(peer: Peer, sender: Sender, receiver: Receiver, first: Event, doorman: &Doorman) {
    let (outbox, queue) = unbounded_channel();
    lock(&doorman.peers).insert(peer, outbox);
    if doorman.sender.send(first).is_err() {
        return;
    }
    let why = tokio::select! {
        why = speak(sender, queue) => why,
        why = listen(peer, receiver, &doorman.sender) => why,
    };
    lock(&doorman.peers).remove(&peer);
    let _ = doorman.sender.send(Event::Gone(peer, why));
}

/// Sends what is queued, and a beat when nothing is. Ends when the coordinator closes the peer.
async fn speak(mut sender: Sender, mut queue: UnboundedReceiver<Arc<[u8]>>) -> Lost {
    let beat = serde_json::to_vec(&Down::Alive).unwrap_or_default();
    loop {
        let sent = match tokio::time::timeout(BEAT, queue.recv()).await {
            Ok(Some(message)) => sender.send(&message, SILENCE).await,
            Ok(None) => return Lost::Ended("closed by the coordinator".to_owned()),
            Err(_) => sender.send(&beat, SILENCE).await,
        };
        if let Err(error) = sent {
            return Lost::of(error);
        }
    }
}

async fn listen(peer: Peer, mut receiver: Receiver, events: &mpsc::Sender<Event>) -> Lost {
    let mut received = 0;
    loop {
        let message = match receiver.receive(MAX_MESSAGE, SILENCE).await {
            Ok(message) => message,
            Err(error) => return Lost::of(error),
        };
        received += message.len();
        if received > MAX_SAID {
            return Lost::Ended(format!("it sent more than {} MiB", MAX_SAID >> 20));
        }
        match serde_json::from_slice(&message) {
            Ok(Up::Alive) => {}
            Ok(up) => {
                if events.send(Event::Received(peer, up)).is_err() {
                    return Lost::Ended("the coordinator ended".to_owned());
                }
            }
            Err(error) => {
                let what = crate::id::clean(&error.to_string()).into_owned();
                return Lost::Ended(format!("it sent what is not gonogo's protocol: {what}"));
            }
        }
    }
}

/// How a peer was lost.
#[derive(Debug, Clone, PartialEq)]
pub enum Lost {
    /// The connection stands, and nothing comes over it.
    Silent(Duration),
    /// The connection ended, and why.
    Ended(String),
}

impl Lost {
    fn of(error: ChannelError) -> Self {
        match error {
            ChannelError::Silent(t) => Lost::Silent(t),
            ChannelError::Closed => Lost::Ended("its agent closed the connection".to_owned()),
            other => Lost::Ended(other.to_string()),
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lost::Silent(t) => write!(f, "silent for {} s", t.as_secs()),
            Lost::Ended(why) => f.write_str(why),
        }
    }
}
