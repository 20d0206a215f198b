//! The coordinator's sockets: accepts, authenticates, and turns connections into events. Decides nothing.
//!
//! One thread runs all of it; the coordinator reads [`Event`]s from a channel and sends by [`Hub::send`].

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Semaphore, watch};

use crate::cluster::message::{Down, Join, MAX_JOIN, Up};
use crate::cluster::secure::{self, ChannelError, MAX_MESSAGE, Receiver, Sender, Token};

/// An agent that says nothing for so long is lost. Agents say something every [`BEAT`].
pub const SILENCE: Duration = Duration::from_secs(6);
pub const BEAT: Duration = Duration::from_secs(1);
/// Connections that have not yet proven themselves, at once; those beyond wait their turn in the kernel's queue.
const DOORSTEP: usize = 1024;
/// Most that one agent may say in a run.
const MAX_SAID: usize = 1 << 30;
/// Addresses of strangers that are remembered.
const MAX_STRANGERS: usize = 64;

/// A connection's number; never used twice.
pub type Peer = u64;

#[derive(Debug)]
pub enum Event {
    /// A peer that holds the token wants to join.
    Joined(Peer, Box<Join>),
    Said(Peer, Up),
    /// The connection is over, and why.
    Gone(Peer, String),
}

type Outbox = UnboundedSender<Arc<[u8]>>;

pub struct Hub {
    pub events: mpsc::Receiver<Event>,
    pub address: SocketAddr,
    peers: Arc<Mutex<HashMap<Peer, Outbox>>>,
    strangers: Arc<Mutex<HashMap<IpAddr, u64>>>,
    end: watch::Sender<bool>,
}

impl Hub {
    /// Listens on `port` of every address, IPv6 and IPv4. 0 lets the kernel pick.
    pub fn open(port: u16, token: Token) -> io::Result<Self> {
        let any = [SocketAddr::from(([0u16; 8], port)), SocketAddr::from(([0u8; 4], port))];
        let listener = std::net::TcpListener::bind(any[0]).or_else(|_| std::net::TcpListener::bind(any[1]))?;
        // Thousands call at once: the queue of those who wait must hold them.
        rustix::net::listen(&listener, 4096)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (sender, events) = mpsc::channel();
        let (end, ended) = watch::channel(false);
        let (peers, strangers) = (Arc::default(), Arc::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let doorman = Doorman { token, sender, peers: Arc::clone(&peers), strangers: Arc::clone(&strangers) };
        thread::Builder::new()
            .name("hub".to_owned())
            .spawn(move || runtime.block_on(serve(listener, doorman, ended)))?;
        Ok(Hub { events, address, peers, strangers, end })
    }

    /// Sends to each of `to`; a peer that is gone is told of by its event.
    pub fn send(&self, to: impl IntoIterator<Item = Peer>, message: &Down) {
        // A message of ours always serialises.
        let bytes: Arc<[u8]> = serde_json::to_vec(message).unwrap_or_default().into();
        let peers = self.peers.lock().unwrap_or_else(|e| e.into_inner());
        for peer in to {
            if let Some(outbox) = peers.get(&peer) {
                let _ = outbox.send(Arc::clone(&bytes));
            }
        }
    }

    /// Closes a connection once what was sent is out.
    pub fn close(&self, peer: Peer) {
        self.peers.lock().unwrap_or_else(|e| e.into_inner()).remove(&peer);
    }

    /// Addresses that called without the token, and how often each.
    pub fn strangers(&self) -> Vec<(IpAddr, u64)> {
        let mut out: Vec<_> =
            self.strangers.lock().unwrap_or_else(|e| e.into_inner()).iter().map(|(a, n)| (*a, *n)).collect();
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
        let hub =
            Hub { events, address, peers: Arc::clone(&peers), strangers: Arc::default(), end: watch::channel(false).0 };
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
    strangers: Arc<Mutex<HashMap<IpAddr, u64>>>,
}

async fn serve(listener: std::net::TcpListener, doorman: Doorman, mut ended: watch::Receiver<bool>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let doorstep = Arc::new(Semaphore::new(DOORSTEP));
    let mut next: Peer = 0;
    let accept = async {
        loop {
            let Ok(place) = doorstep.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, from)) => {
                    next += 1;
                    let (peer, doorman) = (next, doorman.clone());
                    tokio::spawn(async move {
                        let admitted = admit(stream, from.ip(), &doorman).await;
                        drop(place);
                        if let Some((sender, receiver, join)) = admitted {
                            talk(peer, sender, receiver, join, &doorman).await;
                        }
                    });
                }
                // Out of descriptors: those who leave make room.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::select! { () = accept => {}, _ = ended.changed() => {} }
    // What is queued (a Bye) goes out.
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// Lets in who holds the token and says who it is in time.
async fn admit(stream: TcpStream, from: IpAddr, doorman: &Doorman) -> Option<(Sender, Receiver, Box<Join>)> {
    let proven = async {
        let (sender, mut receiver) = secure::answer(stream, &doorman.token).await?;
        let first = receiver.receive(MAX_JOIN, secure::HANDSHAKE).await?;
        match serde_json::from_slice(&first) {
            Ok(Up::Join(join)) => Ok((sender, receiver, join)),
            _ => Err(ChannelError::Junk("something else than a join came first".to_owned())),
        }
    };
    match proven.await {
        Ok(all) => Some(all),
        Err(_) => {
            let mut strangers = doorman.strangers.lock().unwrap_or_else(|e| e.into_inner());
            if strangers.len() < MAX_STRANGERS || strangers.contains_key(&from) {
                *strangers.entry(from).or_default() += 1;
            }
            None
        }
    }
}

async fn talk(peer: Peer, sender: Sender, receiver: Receiver, join: Box<Join>, doorman: &Doorman) {
    let (outbox, queue) = unbounded_channel();
    doorman.peers.lock().unwrap_or_else(|e| e.into_inner()).insert(peer, outbox);
    if doorman.sender.send(Event::Joined(peer, join)).is_err() {
        return;
    }
    let why = tokio::select! {
        why = speak(sender, queue) => why,
        why = listen(peer, receiver, &doorman.sender) => why,
    };
    doorman.peers.lock().unwrap_or_else(|e| e.into_inner()).remove(&peer);
    let _ = doorman.sender.send(Event::Gone(peer, why));
}

/// Sends what is queued, and a beat when nothing is. Ends when the coordinator closes the peer.
async fn speak(mut sender: Sender, mut queue: UnboundedReceiver<Arc<[u8]>>) -> String {
    let beat = serde_json::to_vec(&Down::Alive).unwrap_or_default();
    loop {
        let sent = match tokio::time::timeout(BEAT, queue.recv()).await {
            Ok(Some(message)) => sender.send(&message, SILENCE).await,
            Ok(None) => return "closed by the coordinator".to_owned(),
            Err(_) => sender.send(&beat, SILENCE).await,
        };
        if let Err(error) = sent {
            return describe(&error);
        }
    }
}

async fn listen(peer: Peer, mut receiver: Receiver, events: &mpsc::Sender<Event>) -> String {
    let mut said = 0;
    loop {
        let message = match receiver.receive(MAX_MESSAGE, SILENCE).await {
            Ok(message) => message,
            Err(error) => return describe(&error),
        };
        said += message.len();
        if said > MAX_SAID {
            return format!("it sent more than {} MiB", MAX_SAID >> 20);
        }
        match serde_json::from_slice(&message) {
            Ok(Up::Alive) => {}
            Ok(up) => {
                if events.send(Event::Said(peer, up)).is_err() {
                    return "the coordinator ended".to_owned();
                }
            }
            Err(error) => {
                return format!("it sent what is not gonogo's protocol: {}", crate::id::clean(&error.to_string()));
            }
        }
    }
}

fn describe(error: &ChannelError) -> String {
    match error {
        ChannelError::Silent(t) => format!("silent for {} s", t.as_secs()),
        ChannelError::Closed => "its agent closed the connection".to_owned(),
        other => other.to_string(),
    }
}
