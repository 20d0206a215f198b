//! `ibstat`: the adapters of one node and the state of their ports. The format is that of infiniband-diags/ibstat.c (rdma-core); it
//! does not name the node.

use crate::topology::ib::{Parsed, Skipped, hex, lines, skip};

/// An adapter of the node on which ibstat ran.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// Which capture it is from: a node's name is in none.
    pub source: String,
    /// `mlx5_0`.
    pub device: String,
    /// `CA type`, such as `MT4129`.
    pub model: String,
    pub ports: Vec<AdapterPort>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AdapterPort {
    pub number: u32,
    /// `Active`, `Down`, `Initializing`, `Armed`.
    pub state: String,
    /// `LinkUp`, `Polling`, `Disabled`, `PortConfigurationTraining`, `LinkErrorRecovery`.
    pub physical: String,
    /// Gb/s.
    pub rate: Option<f64>,
    /// 0 where no subnet manager has given one.
    pub lid: Option<u32>,
    /// Absent where the port has none.
    pub guid: Option<u64>,
    /// `InfiniBand`, `Ethernet`; empty where it was not told.
    pub layer: String,
}

/// Whether a line begins an adapter.
pub(super) fn is_head(line: &str) -> bool {
    head(line).is_some()
}

/// `CA 'mlx5_0'`; with the number of a port on the command line `CA: 'mlx5_0'`.
fn head(line: &str) -> Option<&str> {
    const KINDS: [&str; 5] = ["CA", "Switch", "Router", "iWARP RNIC", "???"];
    let (kind, rest) = line.trim().split_once('\'')?;
    let kind = kind.trim_end();
    KINDS.contains(&kind.strip_suffix(':').unwrap_or(kind)).then(|| rest.strip_suffix('\'')).flatten()
}

/// Reads ibstat's output; `source` is what the capture is called.
pub fn parse_ibstat(source: &str, text: &str) -> Parsed<Vec<Adapter>> {
    let mut out: Vec<Adapter> = Vec::new();
    let mut skipped: Vec<Skipped> = Vec::new();
    // The port that the next lines are of, and its heading.
    let mut open: Option<(AdapterPort, usize, String)> = None;
    for (number, line) in lines(text) {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let port = line.strip_prefix("Port ").and_then(|rest| rest.strip_suffix(':')).map(str::parse);
        let device = head(line);
        if device.is_some() || port.is_some() {
            close(&mut out, open.take(), &mut skipped);
        }
        let is_known = match (device, port, out.last_mut(), &mut open) {
            (Some(device), ..) => {
                let (source, device) = (source.to_owned(), device.to_owned());
                out.push(Adapter { source, device, model: String::new(), ports: Vec::new() });
                true
            }
            (None, Some(Ok(port)), Some(_), _) => {
                open = Some((AdapterPort::new(port), number, line.to_owned()));
                true
            }
            (None, None, _, Some((port, ..))) => port.field(line).is_some(),
            (None, None, Some(adapter), None) => adapter.field(line).is_some(),
            _ => false,
        };
        if !is_known {
            skip(&mut skipped, number, line);
        }
    }
    close(&mut out, open, &mut skipped);
    Parsed { value: out, skipped }
}

/// Keeps a port; one whose state was cut off is told.
fn close(adapters: &mut [Adapter], port: Option<(AdapterPort, usize, String)>, skipped: &mut Vec<Skipped>) {
    match (adapters.last_mut(), port) {
        (Some(adapter), Some((port, ..))) if !port.state.is_empty() && !port.physical.is_empty() => {
            adapter.ports.push(port);
        }
        (_, Some((_, number, line))) => skip(skipped, number, &line),
        (_, None) => {}
    }
}

impl Adapter {
    /// `CA type: MT4129`; what says nothing of its ports is known and not kept.
    fn field(&mut self, line: &str) -> Option<()> {
        let (key, value) = line.split_once(':')?;
        match key {
            "Number of ports" | "Firmware version" | "Hardware version" | "Node GUID" | "System image GUID" => {}
            _ => {
                key.strip_suffix(" type")?;
                self.model = value.trim().to_owned();
            }
        }
        Some(())
    }
}

impl AdapterPort {
    fn new(number: u32) -> Self {
        let (state, physical, layer) = Default::default();
        AdapterPort { number, state, physical, rate: None, lid: None, guid: None, layer }
    }

    fn field(&mut self, line: &str) -> Option<()> {
        let (key, value) = line.split_once(':')?;
        let value = value.trim();
        match key {
            "State" => self.state = value.to_owned(),
            "Physical state" => self.physical = value.to_owned(),
            // `40 (FDR10)`
            "Rate" => {
                let rate: f64 = value.split_whitespace().next()?.parse().ok()?;
                self.rate = Some(Some(rate).filter(|r| r.is_finite() && *r >= 0.0)?);
            }
            "Base lid" => self.lid = Some(value.parse().ok()?),
            "Port GUID" => self.guid = Some(hex(value)?).filter(|guid| *guid != 0),
            "Link layer" => self.layer = value.to_owned(),
            "LMC" | "SM lid" | "Capability mask" => {}
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "CA 'mlx5_0'\n\tCA type: MT4129\n\tNumber of ports: 1\n\tFirmware version: 28.39.1002\n\tHardware version: 0\n\tNode GUID: 0xa088c20300a1b2c4\n\tSystem image GUID: 0xa088c20300a1b2c4\n\tPort 1:\n\t\tState: Active\n\t\tPhysical state: LinkUp\n\t\tRate: 400\n\t\tBase lid: 7\n\t\tLMC: 0\n\t\tSM lid: 1\n\t\tCapability mask: 0xa651e848\n\t\tPort GUID: 0xa088c20300a1b2c4\n\t\tLink layer: InfiniBand\n";

    #[test]
    fn a_block_is_an_adapter_with_its_ports() {
        let down = ONE.replace("mlx5_0", "mlx5_1").replace("Active", "Down").replace("LinkUp", "Polling");
        let parsed =
            parse_ibstat("n1", &format!("{ONE}{}", down.replace("0xa088c20300a1b2c4\n\t\tLink", "0x0\n\t\tLink")));
        assert_eq!(parsed.skipped, []);
        let port = AdapterPort {
            number: 1,
            state: "Active".into(),
            physical: "LinkUp".into(),
            rate: Some(400.0),
            lid: Some(7),
            guid: Some(0xa088_c203_00a1_b2c4),
            layer: "InfiniBand".into(),
        };
        let adapter = |device: &str, port| Adapter {
            source: "n1".into(),
            device: device.into(),
            model: "MT4129".into(),
            ports: vec![port],
        };
        let polling = AdapterPort { state: "Down".into(), physical: "Polling".into(), guid: None, ..port.clone() };
        assert_eq!(parsed.value, [adapter("mlx5_0", port), adapter("mlx5_1", polling)]);
    }

    #[test]
    fn one_port_alone_and_old_rates_are_read() {
        let text = "CA: 'mthca0'\nPort 1:\nState: Active\nPhysical state: LinkUp\nRate: 40 (FDR10)\n";
        let parsed = parse_ibstat("n1", text);
        assert_eq!(parsed.skipped, []);
        assert_eq!((parsed.value[0].ports[0].rate, parsed.value[0].device.as_str()), (Some(40.0), "mthca0"));
        assert!(is_head("CA 'mlx5_0'") && !is_head("CA: node1 mlx5_0:") && !is_head("CA 7 1 0x1 4x FDR 'x'"));
    }

    #[test]
    fn nonsense_and_what_was_cut_is_placed() {
        let bad = ONE.replace("Rate: 400", "Rate: fast").replace("LMC: 0", "Colour: blue")
            + "CA 'mlx5_1'\n\tPort 1:\n\t\tState: Active\n";
        let lines: Vec<usize> = parse_ibstat("n1", &bad).skipped.iter().map(|s| s.line).collect();
        assert_eq!(lines, [11, 13, 19]);
        assert_eq!(parse_ibstat("n1", "Port 1:\nState: Active\n").skipped.len(), 2);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(CA '|'|CA type: |Port [0-9]{1,12}:|State: |Physical state: |Rate: |Base lid: |Port GUID: 0x|[0-9a-f]{1,20}|Link layer: |\n|\t|\\PC){0,40}") {
            let _ = (parse_ibstat("n", &text), is_head(&text));
        }
    }
}
