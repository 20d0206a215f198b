//! What is wrong, with whom, by what evidence, and what to do.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::hostlist;
use crate::id::{NodeName, clean};
use crate::judge::codes::Code;
use crate::judge::severity::Severity;
use crate::work::{Case, Metric};

/// What a finding is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    Run,
    /// The container image that was looked at.
    Image,
    Node(NodeName),
    /// A GPU of a node, by its number there.
    Gpu(NodeName, u32),
    Path(NodeName, PathBuf),
    /// From one node to another.
    Link(NodeName, NodeName),
    Group(Vec<NodeName>),
    Leaf(String),
    Switch(String),
    /// Both ends, each a node and a port.
    Cable(String, String),
}

impl Subject {
    /// The same, with its nodes called otherwise.
    pub fn renamed(&self, called: &dyn Fn(&NodeName) -> NodeName) -> Self {
        match self {
            Subject::Node(n) => Subject::Node(called(n)),
            Subject::Gpu(n, gpu) => Subject::Gpu(called(n), *gpu),
            Subject::Path(n, path) => Subject::Path(called(n), path.clone()),
            Subject::Link(a, b) => Subject::Link(called(a), called(b)),
            Subject::Group(nodes) => Subject::Group(nodes.iter().map(called).collect()),
            Subject::Run | Subject::Image | Subject::Leaf(_) | Subject::Switch(_) | Subject::Cable(..) => self.clone(),
        }
    }

    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Subject::Run
            | Subject::Image
            | Subject::Link(..)
            | Subject::Group(_)
            | Subject::Leaf(_)
            | Subject::Switch(_)
            | Subject::Cable(..) => None,
            Subject::Node(n) | Subject::Gpu(n, _) | Subject::Path(n, _) => Some(n),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Run => f.write_str("this run"),
            Subject::Image => f.write_str("this image"),
            Subject::Node(n) => write!(f, "node {n}"),
            Subject::Gpu(n, gpu) => write!(f, "GPU {gpu} of node {n}"),
            Subject::Link(a, b) => write!(f, "link {a} -> {b}"),
            Subject::Group(nodes) => {
                let names: Vec<String> = nodes.iter().map(|n| n.0.clone()).collect();
                write!(f, "group {}", clean(&hostlist::compress(&names)))
            }
            Subject::Leaf(name) => write!(f, "leaf {}", clean(name)),
            Subject::Switch(name) => write!(f, "switch {}", clean(name)),
            Subject::Cable(a, b) => write!(f, "cable {} - {}", clean(a), clean(b)),
            Subject::Path(n, p) => write!(f, "{} on {n}", clean(&p.to_string_lossy())),
        }
    }
}

/// A reading that a finding rests on, with what it was held against; amounts are in the metric's base unit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Proof {
    /// Who measured; of a link, who sent.
    pub node: NodeName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<NodeName>,
    pub step: String,
    pub case: Case,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<Metric>,
    /// The median; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<f64>,
    /// 95 % interval of the median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<(f64, f64)>,
    /// Samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<f64>,
    /// Of a flow, the share of its segments that was sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_again: Option<f64>,
    /// Whether the reading by itself speaks for the finding.
    pub speaks: bool,
}

impl Proof {
    /// That something happened there; callers add the numbers.
    pub fn new(node: &NodeName, step: &str, case: &Case) -> Self {
        Proof {
            node: node.clone(),
            to: None,
            step: step.to_owned(),
            case: case.clone(),
            metric: None,
            measured: None,
            interval: None,
            n: None,
            expected: None,
            sent_again: None,
            speaks: true,
        }
    }
}

/// How readings become a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The interval of a median against a limit.
    Limit,
    /// A median against those of peers, in each attempt.
    Peers,
    /// All readings of a network at once.
    Localised,
    /// A node's shortest round trip against the shortest of all.
    Distance,
    /// Segments that flows sent again, by node and direction.
    Lost,
    /// A collective against what pairs of its nodes and its algorithm need.
    Parts,
    /// A group's all-reduce against those of other groups of its size.
    Groups,
    /// Ranks' own times for the same products in the same rounds.
    Ranks,
    /// A rehearsed step against its parts, or against the plan's.
    Rehearsed,
    /// A test that failed, or an answer that is wrong.
    Outcome,
}

impl Rule {
    /// In words, with its numbers.
    pub const fn text(self) -> &'static str {
        match self {
            Rule::Limit => {
                "fail when the whole 95 % interval of the median is worse than the limit by more than the margin, pass when the whole \
                 interval is within it, open in between; what others used the machine for keeps a bad result open; a limit that only \
                 warns goes by the median"
            }
            Rule::Peers => {
                "worse than the median of the peers by more than 6 % (GPUs: what their models differ by; storage: by half) and by more \
                 deviations than 5 % of false alarms in a whole check allow, in every attempt; seen once it is open"
            }
            Rule::Localised => {
                "each reading is its rate over the reference: the fastest group of pairs of its round and hop class that holds together; \
                 nodes, sides, leaves and pairs get the deficits that explain all readings best, with the noise of the round as it was \
                 measured; a node is named with odds of 9 to 1 or more, slow with two partners in two rounds or more; what is likelier than not and \
                 less than that is open"
            }
            Rule::Ranks => {
                "each rank's own products, round by round, as a share of the median of all ranks in that round; the middles of its odd and of \
                 its even rounds are held against the fastest group of ranks that holds together; a rank is named when it loses 2.5 % and \
                 more (7 % among fewer than eight ranks, half where they share a machine), 3.3 deviations of such a middle, and half of \
                 that in both, early as well as late; or when it \
                 is slow by as much in more rounds than chance allows once in ten million, and loses as much by its mean"
            }
            Rule::Rehearsed => {
                "computing alone (c), messages alone (m) and both (b) are taken in turn; c and m say how long b takes where each layer's \
                 gradients go beside the next layer's products, and of c + m less that, what b takes longer is not hidden; the run's step is \
                 the rehearsed layers' time, times its layers and microbatches"
            }
            Rule::Distance => {
                "of many round trips with each partner the shortest counts, of these the nearest partner's: it is open when that takes more \
                 than 10 times as long as between the nearest two nodes of the run, and half a millisecond more"
            }
            Rule::Lost => {
                "a flow loses segments when it sent again one in a thousand or more, and ten times the lower quartile of the \
                 flows of other nodes; a node is named when four in five of its flows of a direction do, with two partners or more, those first that \
                 explain most; from 0.3 % on it fails"
            }
            Rule::Parts => {
                "what a collective needs: the algorithm's exchanges, each at what a small one takes, and its bytes at the rate that the slowest \
                 of its nodes reaches with a partner (both ways at once perhaps half); it warns from twice that on, and holds from four times \
                 on where smaller groups were well; by NCCL, the slower of pairs of nodes and of one node's GPUs carries the bus bandwidth"
            }
            Rule::Groups => {
                "the all-reduce of a group against the middle of the groups of its size: slow below 70 % of it and beyond four deviations, or \
                 below 40 %; halves of a slow group among cleared nodes show which half has the cause"
            }
            Rule::Outcome => "it happened: no number is weighed",
        }
    }
}

/// A finding. Texts are clean: nothing in them drives a terminal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    pub code: Code,
    pub severity: Severity,
    pub subject: Subject,
    /// What was seen, with its numbers.
    pub evidence: String,
    /// The limit and where it comes from; empty where the finding needs none.
    pub limit: String,
    /// Who accepted it and until when; it then no longer weighs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waived: Option<String>,
    /// The network interface that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The readings that it rests on, and how; empty where it rests on facts that the evidence tells whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub proof: Vec<Proof>,
}

impl Finding {
    pub fn new(code: Code, subject: Subject, evidence: impl Into<String>) -> Self {
        Finding {
            code,
            severity: code.doc().severity,
            subject,
            evidence: clean(&evidence.into()).into_owned(),
            limit: String::new(),
            waived: None,
            interface: None,
            rule: None,
            proof: Vec::new(),
        }
    }

    /// What it rests on.
    pub fn proven(mut self, rule: Rule, proof: Vec<Proof>) -> Self {
        (self.rule, self.proof) = (Some(rule), proof);
        self
    }

    pub fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    pub fn limit(mut self, limit: impl Into<String>) -> Self {
        self.limit = clean(&limit.into()).into_owned();
        self
    }

    pub fn title(&self) -> &'static str {
        self.code.doc().title
    }

    pub fn suspect(&self) -> &'static str {
        self.code.doc().suspect
    }

    pub fn on_interface(mut self, name: Option<&str>) -> Self {
        self.interface = name.map(|n| clean(n).into_owned());
        self
    }

    /// What to do, with the thing to do it to.
    pub fn remedy(&self) -> Cow<'static, str> {
        self.code.doc().remedy_on(self.interface.as_deref())
    }

    /// Whether it still counts.
    pub fn weighs(&self) -> bool {
        self.waived.is_none()
    }
}
