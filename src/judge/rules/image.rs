//! What an image brings -> findings: what does not load, what does not go together, what it needs to be started with.

use crate::id::clean;
use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Subject};
use crate::judge::rules::Facts;
use crate::judge::severity::Severity;
use crate::measure;
use crate::plan::{ImagePlan, RunPlan};
use crate::record::Record;
use crate::topology::{
    Component, LibraryFile, Reach, Start, Version, architecture, cuda_of, driver_of, net_plugins, newest_cuda,
    oldest_cuda, oldest_driver,
};
use crate::unit::Bytes;
use crate::work::Software;

/// NCCL and Open MPI put their buffers there; Docker gives 64 MiB.
const SMALL_SHM: Bytes = Bytes(Bytes::GIB);
/// Since then the kernel hands a GPU's memory to an adapter as a dma-buf.
const DMA_BUF: &str = "5.12";
/// Parts of which two versions are one too many.
const SINGLE: &[Software] = &[
    Software::Cuda,
    Software::CublasLt,
    Software::Nccl,
    Software::Ibverbs,
    Software::Ucx,
    Software::Mpi,
    Software::Gdrcopy,
];
/// What a GPU needs for training.
const FOR_GPUS: &[Software] = &[Software::Cuda, Software::CublasLt, Software::Nccl];

/// The parts of an image by name.
struct Parts<'r>(Vec<(Software, &'r Component)>);

impl<'r> Parts<'r> {
    fn files(&self, part: Software) -> impl Iterator<Item = &'r LibraryFile> + use<'r, '_> {
        self.0.iter().filter(move |(p, _)| *p == part).flat_map(|(_, c)| &c.files)
    }

    /// Those that some program can use: the loader knows them, or they lie where packages bring their own path.
    fn working(&self, part: Software) -> impl Iterator<Item = &'r LibraryFile> + use<'r, '_> {
        self.files(part).filter(|f| f.works() && !f.stub)
    }

    fn has(&self, part: Software) -> bool {
        self.working(part).next().is_some()
    }

    /// Whether the loader gives it to a program that asks by name.
    fn loads(&self, part: Software) -> bool {
        self.working(part).any(|f| f.reach == Reach::Loaded)
    }
}

/// Adds a finding: code, another severity than the code's, evidence, limit.
type Add<'a> = &'a mut dyn FnMut(Code, Option<Severity>, String, &str);

pub(super) fn findings(record: &Record, run: &RunPlan, findings: &mut Vec<Finding>) {
    let parts = Parts(Facts::software(record).collect());
    let start = record.outcomes.facts().find_map(|(_, fact)| match fact {
        measure::Facts::Start(s) => Some(&**s),
        _ => None,
    });
    if parts.0.is_empty() && start.is_none() {
        return;
    }
    let nothing = ImagePlan::default();
    let plan = run.image.as_ref().unwrap_or(&nothing);
    let driver_here = start.is_some_and(|s| s.nvidia);
    let mut add = |code: Code, severity: Option<Severity>, evidence: String, limit: &str| {
        let f = Finding::new(code, Subject::Image, evidence).limit(limit);
        findings.push(match severity {
            Some(s) => f.severity(s),
            None => f,
        });
    };
    loading(&parts, &mut add);
    lost(&parts, &mut add);
    needs(&parts, plan, &mut add);
    verbs(&parts, &mut add);
    doubles(&parts, &mut add);
    driver(&parts, plan, driver_here, &mut add);
    cuda(&parts, plan, &mut add);
    code(&parts, plan, &mut add);
    plugins(&parts, start, &mut add);
    ucx(&parts, &mut add);
    if let Some(start) = start {
        environment(start, plan, &mut add);
        starting(&parts, start, &mut add);
    }
    if let (Some(kernel), true) = (plan.kernel.as_deref().and_then(Version::parse), parts.has(Software::Nccl))
        && Version::parse(DMA_BUF).is_some_and(|v| kernel < v)
    {
        add(Code::IMG_018, None, format!("kernel {kernel} is older than {DMA_BUF}"), "");
    }
}

fn show(f: &LibraryFile) -> String {
    let version = f.version.as_deref().map_or(String::new(), |v| format!(" {v}"));
    format!("{}{version} at {}", f.name, f.path.display())
}

fn number(f: &LibraryFile) -> Option<Version> {
    let text = f.version.as_deref()?;
    Version::parse(&text[text.find(|c: char| c.is_ascii_digit())?..])
}

fn loading(parts: &Parts<'_>, add: Add<'_>) {
    for (part, component) in &parts.0 {
        // A provider that is named and absent is the provider's own matter; below.
        for f in component.files.iter().filter(|_| *part != Software::Providers) {
            if let Some(error) = &f.error {
                let severity = (f.reach != Reach::Loaded || *part == Software::UcxModules).then_some(Severity::Warn);
                add(Code::IMG_001, severity, format!("{part}: {}: {}", f.path.display(), clean(error)), "");
            }
        }
    }
}

/// Where the loader looks, and no file of the name is what it takes.
fn lost(parts: &Parts<'_>, add: Add<'_>) {
    for part in SINGLE.iter().copied() {
        for f in parts.working(part).filter(|f| f.reach == Reach::Hidden) {
            if !parts.files(part).any(|o| o.name == f.name && o.reach == Reach::Loaded) {
                add(Code::IMG_019, None, show(f), "");
            }
        }
    }
}

fn needs(parts: &Parts<'_>, plan: &ImagePlan, add: Add<'_>) {
    let for_gpus = if plan.gpu.is_some() { FOR_GPUS } else { &[] };
    let stated = plan.needs.iter().map(|n| (n.as_str(), "stated as needed"));
    let implied = for_gpus.iter().map(|p| p.name()).filter(|n| !plan.needs.iter().any(|s| s == *n));
    for (need, why) in stated.chain(implied.map(|n| (n, "a GPU is stated"))) {
        let part = Software::named(need);
        let provider = |f: &LibraryFile| f.name == need && f.works() && f.reach == Reach::Loaded;
        if part.is_some_and(|p| parts.has(p)) || parts.files(Software::Providers).any(provider) {
            continue;
        }
        let of_name = parts.files(Software::Providers).filter(|f| f.name == need);
        let of_part = part.into_iter().flat_map(|p| parts.files(p));
        let there: Vec<String> = of_part.chain(of_name).map(|f| f.path.display().to_string()).collect();
        let what = if there.is_empty() {
            "is not in the image".to_owned()
        } else {
            format!("does not load: {}", there.join(", "))
        };
        add(Code::IMG_002, None, format!("{} {what}", clean(need)), why);
    }
}

fn verbs(parts: &Parts<'_>, add: Add<'_>) {
    let providers: Vec<&LibraryFile> = parts.files(Software::Providers).collect();
    if let Some(verbs) = parts.working(Software::Ibverbs).next() {
        // By what is wrong: a package that is missing takes all of them.
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for (f, error) in providers.iter().filter_map(|f| Some((f, f.error.as_deref()?))) {
            match reasons.iter_mut().find(|(e, _)| *e == error) {
                Some((_, names)) => names.push(&f.name),
                None => reasons.push((error, vec![&f.name])),
            }
        }
        let broken: Vec<String> =
            reasons.iter().map(|(error, names)| format!("{} ({})", names.join(", "), clean(error))).collect();
        if !providers.iter().any(|f| f.works() && f.reach == Reach::Loaded) {
            let why = match (providers.is_empty(), broken.is_empty()) {
                (true, _) => "no provider is there".to_owned(),
                (_, true) => format!(
                    "/etc/libibverbs.d names none of those that are there: {}",
                    providers.iter().map(|f| f.name.as_str()).collect::<Vec<_>>().join(", ")
                ),
                _ => format!("no provider loads: {}", broken.join(", ")),
            };
            add(Code::IMG_003, None, format!("{}, and {why}", show(verbs)), "");
        } else if !broken.is_empty() {
            add(Code::IMG_003, Some(Severity::Warn), format!("named and not to be loaded: {}", broken.join(", ")), "");
        }
    } else if parts.has(Software::Nccl) && !parts.has(Software::NcclNet) {
        add(Code::IMG_004, None, "no libibverbs.so.1 that loads, and no net plugin of NCCL".to_owned(), "");
    }
}

fn doubles(parts: &Parts<'_>, add: Add<'_>) {
    for part in SINGLE.iter().copied() {
        let files: Vec<&LibraryFile> = parts.working(part).collect();
        let Some(first) = files.iter().find(|f| f.reach == Reach::Loaded).or(files.first()) else { continue };
        let others: Vec<&&LibraryFile> =
            files.iter().filter(|f| f.name == first.name && f.version != first.version).collect();
        if others.is_empty() {
            continue;
        }
        let older_wins = others.iter().any(|o| {
            o.reach == Reach::Hidden
                && first.reach == Reach::Loaded
                && number(o).zip(number(first)).is_some_and(|(o, f)| o > f)
        });
        let list: Vec<String> = others
            .iter()
            .map(|f| {
                let who = if f.reach == Reach::Apart { "for programs that bring its path" } else { "hidden behind it" };
                format!("{} ({who})", show(f))
            })
            .collect();
        let wins = if first.reach == Reach::Loaded { "programs get " } else { "" };
        let evidence = format!("{wins}{}; also there: {}", show(first), list.join("; "));
        add(
            Code::IMG_005,
            older_wins.then_some(Severity::Fail),
            evidence,
            if older_wins { "an older one hides a newer one" } else { "" },
        );
    }
}

fn driver(parts: &Parts<'_>, plan: &ImagePlan, driver_here: bool, add: Add<'_>) {
    for f in parts.files(Software::Driver) {
        let compat = f.path.components().any(|c| c.as_os_str() == "compat");
        if f.reach == Reach::Apart {
            continue;
        }
        if f.stub && f.reach == Reach::Loaded {
            // Programs ask for libcuda.so.1; only few take the name for linking.
            let severity = (f.name != "libcuda.so.1" && f.name != "libnvidia-ml.so.1").then_some(Severity::Warn);
            add(Code::IMG_006, severity, format!("who asks for {} gets the stub {}", f.name, f.path.display()), "");
        } else if !f.stub && !driver_here && !compat {
            let stated = plan.driver.as_deref().and_then(Version::parse);
            let differs = number(f).zip(stated.clone()).is_some_and(|(f, s)| f != s);
            let limit = stated.map_or(String::new(), |s| format!("driver {s}"));
            add(Code::IMG_007, differs.then_some(Severity::Fail), show(f), &limit);
        }
    }
}

/// Toolkits by the parts that tell theirs: part, file, version.
fn toolkits<'r>(parts: &Parts<'r>) -> Vec<(Software, &'r LibraryFile, Version)> {
    let mut out = Vec::new();
    for part in FOR_GPUS.iter().copied() {
        for f in parts.working(part) {
            let text = if part == Software::Cuda { f.version.as_deref() } else { f.cuda.as_deref() };
            out.extend(text.and_then(Version::parse).map(|v| (part, f, v)));
        }
    }
    out
}

fn cuda(parts: &Parts<'_>, plan: &ImagePlan, add: Add<'_>) {
    let toolkits = toolkits(parts);
    let compat = |cuda: &Version| {
        parts.files(Software::Driver).any(|f| {
            let branch = driver_of(cuda).map(|d| d.major());
            f.path.components().any(|c| c.as_os_str() == "compat") && number(f).map(|v| v.major()) >= branch
        })
    };
    if let Some(driver) = plan.driver.as_deref().and_then(Version::parse) {
        let list = |old: &dyn Fn(&Version) -> Option<Version>| {
            let too_new = toolkits.iter().filter_map(|(part, f, v)| {
                let least = old(v).filter(|least| driver < *least)?;
                Some((format!("{part} of CUDA {v} ({})", f.path.display()), v, least))
            });
            too_new.collect::<Vec<_>>()
        };
        let refused = list(&|v| oldest_driver(v));
        let limited = list(&|v| driver_of(v).filter(|_| oldest_driver(v).is_some_and(|o| driver >= o)));
        for (all, code) in [(refused, Code::IMG_008), (limited, Code::IMG_009)] {
            let Some((_, newest, least)) = all.iter().max_by_key(|(_, v, _)| (*v).clone()) else { continue };
            let what: Vec<&str> = all.iter().map(|(t, ..)| t.as_str()).collect();
            let saved = code == Code::IMG_008 && compat(newest);
            let how = if saved { "; the image brings CUDA's forward compatibility libraries" } else { "" };
            let evidence = format!("driver {driver} and {}{how}", what.join(", "));
            let limit = format!("CUDA {newest}: driver {least} or newer");
            add(code, saved.then_some(Severity::Warn), evidence, &limit);
        }
    }
    let mut majors: Vec<u32> = toolkits.iter().map(|(_, _, v)| v.major()).collect();
    majors.sort_unstable();
    majors.dedup();
    if majors.len() > 1 {
        let list: Vec<String> =
            toolkits.iter().map(|(part, f, v)| format!("{part} {v} at {}", f.path.display())).collect();
        add(Code::IMG_011, None, list.join(", "), "");
    }
}

fn code(parts: &Parts<'_>, plan: &ImagePlan, add: Add<'_>) {
    let Some(gpu) = &plan.gpu else { return };
    let Some(capability) = architecture(gpu) else {
        add(Code::IMG_010, Some(Severity::Hold), format!("`{}` is no GPU that is known here", clean(gpu)), "");
        return;
    };
    // What code is there is seen; only where it is not, the toolkit's age tells.
    for (part, f, v) in toolkits(parts).into_iter().filter(|(_, f, _)| f.code.is_empty() && f.ptx.is_empty()) {
        let oldest = oldest_cuda(capability);
        if let Some(oldest) = oldest.filter(|o| v < *o) {
            let limit = format!("CUDA {oldest} is the first for sm_{capability}");
            add(Code::IMG_010, None, format!("{part} of CUDA {v} at {}", f.path.display()), &limit);
        } else if let Some(newest) = newest_cuda(capability).filter(|n| v.major() > *n) {
            let limit = format!("CUDA {newest} is the last for sm_{capability}");
            add(Code::IMG_010, None, format!("{part} of CUDA {v} at {}", f.path.display()), &limit);
        }
    }
    for part in [Software::CublasLt, Software::Nccl] {
        for f in parts.working(part).filter(|f| !f.code.is_empty() || !f.ptx.is_empty()) {
            // Machine code runs on the same major version, from its minor version on (CUDA's binary compatibility).
            let native = f.code.iter().any(|c| c / 10 == capability / 10 && *c <= capability);
            let ptx = f.ptx.iter().any(|c| *c <= capability);
            if !native {
                let has = |list: &[u32]| list.iter().map(|c| format!("sm_{c}")).collect::<Vec<_>>().join(" ");
                let how = if ptx { "; the driver must compile its PTX first" } else { "" };
                let evidence = format!("{} has code for {}{how}", show(f), has(&f.code));
                // The file that no program gets by itself may be for others.
                let severity = (ptx || f.reach == Reach::Hidden).then_some(Severity::Warn);
                add(Code::IMG_010, severity, evidence, &format!("{} is sm_{capability}", clean(gpu)));
            }
        }
    }
}

fn plugins(parts: &Parts<'_>, start: Option<&Start>, add: Add<'_>) {
    let asked = start.and_then(|s| s.environment.get("NCCL_NET_PLUGIN")).map(String::as_str);
    let wanted = |f: &&LibraryFile| match asked {
        Some(name) => f.name == *name || f.name.starts_with(&format!("libnccl-net-{name}.so")),
        None => f.name.starts_with("libnccl-net.so"),
    };
    for plugin in parts.working(Software::NcclNet).filter(wanted).filter(|f| f.waits_for.is_empty()) {
        for nccl in parts.working(Software::Nccl).filter(|n| n.reach != Reach::Hidden) {
            let Some((oldest, newest)) = number(nccl).and_then(|v| net_plugins(&v)) else { continue };
            if !plugin.offers.iter().any(|v| (oldest..=newest).contains(v)) {
                let list = plugin.offers.iter().map(|v| format!("v{v}")).collect::<Vec<_>>().join(" ");
                let list = if list.is_empty() { "no version that is known".to_owned() } else { list };
                let evidence = format!("{} offers {list} to {}", plugin.path.display(), show(nccl));
                add(Code::IMG_012, None, evidence, &format!("this NCCL takes v{oldest} to v{newest}"));
            }
        }
    }
}

fn ucx(parts: &Parts<'_>, add: Add<'_>) {
    let Some(ucx) = parts.working(Software::Ucx).next() else { return };
    let module = |name: &str| parts.working(Software::UcxModules).any(|f| f.name.contains(name));
    let lacks: Vec<&str> = [("libuct_cuda", parts.has(Software::Cuda)), ("libuct_ib", parts.has(Software::Ibverbs))]
        .into_iter()
        .filter(|(name, wanted)| *wanted && !module(name))
        .map(|(name, _)| name)
        .collect();
    if !lacks.is_empty() {
        add(Code::IMG_015, None, format!("{} without {}", show(ucx), lacks.join(", ")), "");
    }
}

/// Variables that take a transport away: name, value.
const OFF: &[(&str, &str)] = &[
    ("NCCL_P2P_DISABLE", "1"),
    ("NCCL_SHM_DISABLE", "1"),
    ("NCCL_IB_DISABLE", "1"),
    ("NCCL_NVLS_ENABLE", "0"),
    ("NCCL_NET", "Socket"),
    ("NCCL_NET_GDR_LEVEL", "LOC"),
    ("NCCL_NET_GDR_LEVEL", "0"),
    ("CUDA_LAUNCH_BLOCKING", "1"),
    ("UCX_TLS", "tcp"),
    ("NVIDIA_VISIBLE_DEVICES", "void"),
    ("NVIDIA_VISIBLE_DEVICES", "none"),
    ("CUDA_VISIBLE_DEVICES", ""),
];

/// Variables that are right on one kind of machine, or only while looking for a fault.
const PINNED: &[&str] = &[
    "NCCL_ALGO",
    "NCCL_PROTO",
    "NCCL_TOPO_FILE",
    "NCCL_GRAPH_FILE",
    "NCCL_IB_HCA",
    "NCCL_IB_GID_INDEX",
    "NCCL_SOCKET_IFNAME",
    "GLOO_SOCKET_IFNAME",
    "NCCL_MIN_NCHANNELS",
    "NCCL_MAX_NCHANNELS",
    "NCCL_MIN_CTAS",
    "NCCL_MAX_CTAS",
    "NCCL_BUFFSIZE",
    "NCCL_NTHREADS",
    "NCCL_CROSS_NIC",
    "UCX_NET_DEVICES",
    "CUDA_VISIBLE_DEVICES",
    "LD_PRELOAD",
    "TORCH_NCCL_BLOCKING_WAIT",
];

fn environment(start: &Start, plan: &ImagePlan, add: Add<'_>) {
    let files = start.settings.iter().map(|(f, k, v)| (k, v, format!(" in {}", f.display())));
    let all = start.environment.iter().map(|(k, v)| (k, v, String::new())).chain(files);
    let (mut off, mut pinned) = (Vec::new(), Vec::new());
    for (name, value, place) in all {
        let shown = format!("{}={}{place}", clean(name), clean(value));
        let noisy = name == "NCCL_DEBUG" && ["TRACE", "INFO"].contains(&value.as_str());
        if OFF.iter().any(|(n, v)| n == name && v.eq_ignore_ascii_case(value)) {
            off.push(shown);
        } else if noisy || PINNED.contains(&name.as_str()) && !value.is_empty() {
            pinned.push(shown);
        } else if name == "NVIDIA_DRIVER_CAPABILITIES"
            && !value.contains("all")
            && !(value.contains("compute") && value.contains("utility"))
        {
            off.push(format!("{shown}: without compute and utility the toolkit mounts no libcuda and no NVML"));
        }
    }
    if !off.is_empty() {
        add(Code::IMG_013, None, off.join(", "), "");
    }
    if !pinned.is_empty() {
        add(Code::IMG_014, None, pinned.join(", "), "");
    }
    if let (Some(require), Some(driver)) = (start.environment.get("NVIDIA_REQUIRE_CUDA"), &plan.driver)
        && !start.environment.get("NVIDIA_DISABLE_REQUIRE").is_some_and(|v| ["1", "true"].contains(&v.as_str()))
        && let Some(driver) = Version::parse(driver)
        && !requirement(require, &driver)
    {
        add(Code::IMG_016, None, format!("NVIDIA_REQUIRE_CUDA={}", clean(require)), &format!("driver {driver}"));
    }
}

/// Whether a driver meets what an image requires of it: conditions apart by blanks are alternatives, by commas all must hold
/// (nvidia-container-toolkit). What is no condition on the driver or its CUDA is taken to hold.
fn requirement(text: &str, driver: &Version) -> bool {
    let cuda = cuda_of(driver);
    let holds = |condition: &str| {
        let at = condition.find(['<', '>', '=', '!']);
        let Some((name, rest)) = at.map(|i| condition.split_at(i)) else { return true };
        let end = rest.find(|c: char| !"<>=!".contains(c)).unwrap_or(rest.len());
        let (operator, value) = rest.split_at(end);
        let (Some(value), Some(actual)) = (
            Version::parse(value),
            match name {
                "cuda" => Some(&cuda),
                "driver" => Some(driver),
                _ => None,
            },
        ) else {
            return true;
        };
        match operator {
            ">=" => *actual >= value,
            ">" => *actual > value,
            "<=" => *actual <= value,
            "<" => *actual < value,
            "=" | "==" => *actual == value,
            "!=" => *actual != value,
            _ => true,
        }
    };
    let mut groups = text.split_whitespace().peekable();
    groups.peek().is_none() || groups.any(|g| g.split(',').all(holds))
}

fn starting(parts: &Parts<'_>, start: &Start, add: Add<'_>) {
    let mut how = Vec::new();
    let rdma = parts.loads(Software::Ibverbs);
    if let (true, Some(limit)) = (rdma, start.memlock) {
        how.push(format!("--ulimit memlock=-1 (here {limit})"));
    }
    if rdma && !start.infiniband {
        how.push("--device=/dev/infiniband (absent here)".to_owned());
    }
    if let (true, Some(shm)) =
        (parts.has(Software::Nccl) || parts.has(Software::Mpi), start.shm.filter(|s| *s < SMALL_SHM))
    {
        how.push(format!("--ipc=host or --shm-size=8g (/dev/shm is {shm} here)"));
    }
    if FOR_GPUS.iter().any(|p| parts.has(*p)) && !start.nvidia {
        how.push("--gpus all (no driver here)".to_owned());
    }
    if !how.is_empty() {
        add(Code::IMG_017, None, how.join(", "), "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_are_alternatives_of_conditions() {
        let meets = |text: &str, driver: &str| requirement(text, &Version::parse(driver).unwrap());
        let nvidia = "cuda>=12.4 brand=tesla,driver>=470,driver<471 brand=tesla,driver>=535,driver<536";
        assert!(meets(nvidia, "550.54.14") && meets(nvidia, "535.183.01") && meets(nvidia, "470.57"));
        assert!(!meets(nvidia, "545.23") && !meets(nvidia, "460.1"));
        assert!(
            meets("", "470") && meets("cuda", "470") && meets("arch=amd64", "470") && !meets("cuda!=12.4", "550.54.14")
        );
    }

    proptest::proptest! {
        #[test]
        fn nonsense_is_survived(text in "(cuda|driver|brand|>=|<|=|!|,| |[0-9.]|\\PC){0,20}") {
            requirement(&text, &Version::parse("550").unwrap());
        }
    }
}
