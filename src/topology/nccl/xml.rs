//! NCCL's topology file (NCCL_TOPO_DUMP_FILE): CPUs, and the GPUs and network devices that hang off each.

use quick_xml::Reader;
use quick_xml::events::attributes::{AttrError, Attribute};
use quick_xml::events::{BytesStart, Event};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A node as NCCL draws it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NcclTopology {
    pub cpus: Vec<TopologyCpu>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TopologyCpu {
    pub numa: Option<i64>,
    pub gpus: Vec<TopologyGpu>,
    pub nets: Vec<TopologyNet>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TopologyGpu {
    /// As CUDA counts it.
    pub dev: Option<i64>,
    pub rank: Option<i64>,
    pub bus: Option<String>,
    pub gdr: Option<bool>,
    /// PCI bridges above it, the outermost first.
    pub bridges: Vec<String>,
    pub link_speed: Option<String>,
    pub link_width: Option<i64>,
    /// NVLinks, to wherever.
    pub nvlinks: i64,
    /// Where they go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub joins: Vec<NvLinkTo>,
}

/// NVLinks that are up, to one other end.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NvLinkTo {
    pub end: NvLinkEnd,
    /// The PCI address of the other end, where it is another GPU's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    pub count: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NvLinkEnd {
    /// An NVSwitch. NCCL takes what it cannot see, as in a virtual machine, for one.
    #[default]
    Switch,
    Gpu,
    Cpu,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TopologyNet {
    pub name: String,
    pub dev: Option<i64>,
    pub speed_mbps: Option<i64>,
    pub gdr: Option<bool>,
    pub bus: Option<String>,
    pub bridges: Vec<String>,
}

/// More nested elements than this are no machine.
const DEEPEST: usize = 64;
/// More NVLinks from one GPU than this are a mistake of the file: Rubin has 36.
const MOST_LINKS: i64 = 1024;
/// More devices than this are no node.
const MOST: usize = 1024;

/// Reads the file.
///
/// # Errors
/// What is wrong, with the place in bytes.
pub fn parse_topology(text: &str) -> Result<NcclTopology, String> {
    let mut reader = Reader::from_str(text);
    let mut out = NcclTopology::default();
    // Elements that are open: their name, and the bus of a PCI device.
    let mut open: Vec<Element> = Vec::new();
    loop {
        let at = reader.buffer_position();
        let wrong = |what: String| format!("NCCL's topology, byte {at}: {what}");
        match reader.read_event().map_err(|e| wrong(e.to_string()))? {
            Event::Eof if open.is_empty() => return Ok(out),
            Event::Eof => return Err(wrong("it ends in the middle".to_owned())),
            Event::Start(e) => {
                if open.len() >= DEEPEST {
                    return Err(wrong("too many elements within each other".to_owned()));
                }
                let element = Element::of(&e).map_err(wrong)?;
                element.enter(&open, &mut out);
                open.push(element);
            }
            Event::Empty(e) => Element::of(&e).map_err(wrong)?.enter(&open, &mut out),
            Event::End(_) => {
                open.pop();
            }
            _ => {}
        }
        let devices: usize = out.cpus.iter().map(|c| 1 + c.gpus.len() + c.nets.len()).sum();
        if devices > MOST {
            return Err(wrong(format!("more than {MOST} devices")));
        }
    }
}

struct Element {
    name: String,
    attributes: Vec<(String, String)>,
}

impl Element {
    fn of(e: &BytesStart<'_>) -> Result<Self, String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let attribute = |a: Result<Attribute<'_>, AttrError>| a.map(|a| (text(a.key.as_ref()), text(&a.value)));
        let attributes: Result<_, AttrError> = e.attributes().map(attribute).collect();
        Ok(Element { name: text(e.name().as_ref()), attributes: attributes.map_err(|e| e.to_string())? })
    }

    fn text(&self, name: &str) -> Option<String> {
        let value = self.attributes.iter().find(|(k, _)| k == name).map(|(_, v)| v)?;
        Some(value.chars().take(128).collect())
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.text(name)?.trim().parse().ok()
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.number(name).map(|n| n != 0)
    }

    /// The other end by its PCI class, as NCCL tells them apart (kvDictPciClass in src/graph/topo.cc).
    fn join(&self, count: u32) -> NvLinkTo {
        let end = match self.text("tclass").as_deref() {
            Some("0x068001") => NvLinkEnd::Cpu,
            Some(class) if class.starts_with("0x03") => NvLinkEnd::Gpu,
            _ => NvLinkEnd::Switch,
        };
        NvLinkTo { end, bus: self.text("target").filter(|_| end == NvLinkEnd::Gpu), count }
    }

    /// Adds what this element is to what was read.
    fn enter(&self, open: &[Element], out: &mut NcclTopology) {
        let device = open.iter().rfind(|e| e.name == "pci");
        let bus = device.and_then(|e| e.text("busid"));
        let bridges = || {
            let above = open.iter().filter(|e| e.name == "pci").filter_map(|e| e.text("busid"));
            above.filter(|b| Some(b) != bus.as_ref()).collect()
        };
        if self.name == "cpu" {
            out.cpus.push(TopologyCpu { numa: self.number("numaid"), ..TopologyCpu::default() });
            return;
        }
        // What hangs off no CPU hangs off one that is not known.
        if out.cpus.is_empty() && matches!(self.name.as_str(), "gpu" | "net") {
            out.cpus.push(TopologyCpu::default());
        }
        let Some(cpu) = out.cpus.last_mut() else { return };
        match self.name.as_str() {
            "gpu" => cpu.gpus.push(TopologyGpu {
                dev: self.number("dev"),
                rank: self.number("rank"),
                gdr: self.flag("gdr"),
                link_speed: device.and_then(|e| e.text("link_speed")),
                link_width: device.and_then(|e| e.number("link_width")),
                nvlinks: 0,
                joins: Vec::new(),
                bridges: bridges(),
                bus: bus.clone(),
            }),
            "nvlink" => {
                if let Some(gpu) = cpu.gpus.last_mut() {
                    let count = self.number("count").unwrap_or(1).clamp(0, MOST_LINKS);
                    gpu.nvlinks = gpu.nvlinks.saturating_add(count);
                    if gpu.joins.len() < MOST {
                        gpu.joins.push(self.join(count as u32));
                    }
                }
            }
            "net" => cpu.nets.push(TopologyNet {
                name: self.text("name").unwrap_or_default(),
                dev: self.number("dev"),
                speed_mbps: self.number("speed"),
                gdr: self.flag("gdr"),
                bridges: bridges(),
                bus: bus.clone(),
            }),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_CPUS: &str = r#"<system version="1">
  <cpu host_hash="0x7f" numaid="0" affinity="ffff" arch="x86_64" vendor="GenuineIntel" familyid="6" modelid="143">
    <pci busid="0000:15:00.0" class="0x060400" link_speed="32.0 GT/s PCIe" link_width="16">
      <pci busid="0000:19:00.0" class="0x030200" vendor="0x10de" link_speed="32.0 GT/s PCIe" link_width="16">
        <gpu dev="0" sm="90" rank="0" gdr="1"><nvlink target="0000:05:00.0" count="9" tclass="0x068000"/>
          <nvlink target="0000:06:00.0" count="9" tclass="0x068000"/></gpu>
      </pci>
      <pci busid="0000:1a:00.0" class="0x020700" link_speed="32.0 GT/s PCIe" link_width="16">
        <nic><net name="mlx5_0" dev="0" latency="0.000000" speed="400000" port="1" guid="0x1" maxconn="131072" gdr="1"/></nic>
      </pci>
    </pci>
  </cpu>
  <cpu numaid="1"><nic><net name="mlx5_1" dev="1" speed="400000" gdr="0"/></nic></cpu>
</system>"#;

    #[test]
    fn devices_hang_off_their_cpu() {
        let t = parse_topology(TWO_CPUS).unwrap();
        let gpu = &t.cpus[0].gpus[0];
        assert_eq!((gpu.dev, gpu.nvlinks, gpu.link_width, gpu.gdr), (Some(0), 18, Some(16), Some(true)));
        assert_eq!(gpu.joins[1], NvLinkTo { end: NvLinkEnd::Switch, bus: None, count: 9 });
        assert_eq!(
            (gpu.bus.as_deref(), gpu.bridges.as_slice()),
            (Some("0000:19:00.0"), &["0000:15:00.0".to_owned()][..])
        );
        let (near, far) = (&t.cpus[0].nets[0], &t.cpus[1].nets[0]);
        assert_eq!((near.name.as_str(), near.gdr, near.bridges.len()), ("mlx5_0", Some(true), 1));
        assert_eq!((far.name.as_str(), far.gdr, t.cpus[1].numa), ("mlx5_1", Some(false), Some(1)));
    }

    #[test]
    fn the_other_end_of_an_nvlink_is_told_by_its_class() {
        let text = r#"<cpu><pci busid="0000:19:00.0"><gpu dev="0" rank="0">
            <nvlink target="00000000:5a:00.0" count="12" tclass="0x030200"/><nvlink target="0004:04:00.0" count="3" tclass="0x068001"/>
            <nvlink target="fffffff:ffff:ff" count="-5"/></gpu></pci></cpu>"#;
        let joins = parse_topology(text).unwrap().cpus[0].gpus[0].joins.clone();
        let ends: Vec<_> = joins.iter().map(|j| (j.end, j.bus.as_deref(), j.count)).collect();
        let other = Some("00000000:5a:00.0");
        assert_eq!(ends, [(NvLinkEnd::Gpu, other, 12), (NvLinkEnd::Cpu, None, 3), (NvLinkEnd::Switch, None, 0)]);
    }

    #[test]
    fn what_is_cut_or_nested_without_end_is_refused_with_its_place() {
        let cut = parse_topology(&TWO_CPUS[..400]).unwrap_err();
        assert!(cut.starts_with("NCCL's topology, byte "), "{cut}");
        let deep = parse_topology(&"<a>".repeat(1000)).unwrap_err();
        assert!(deep.contains("too many elements"), "{deep}");
        let many = parse_topology(&format!("<system>{}</system>", "<cpu/>".repeat(2000))).unwrap_err();
        assert!(many.contains("more than 1024 devices"), "{many}");
    }

    proptest::proptest! {
        #[test]
        fn nonsense_is_survived(cut in 0usize..1500, junk in "\\PC{0,30}", at in 0usize..1500) {
            let mut text: String = TWO_CPUS.chars().take(cut).collect();
            let at = text.char_indices().map(|(i, _)| i).nth(at.min(text.len())).unwrap_or(0);
            text.insert_str(at, &junk);
            let _ = parse_topology(&text);
        }
    }
}
