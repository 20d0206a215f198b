//! The registry of finding codes. A code is never reused and never changes its meaning.

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};

use crate::judge::severity::Severity;

/// What `gonogo explain CODE` tells.
#[derive(Debug, PartialEq)]
pub struct CodeDoc {
    pub code: &'static str,
    pub id: Code,
    /// As it stands unless the evidence makes it lighter or heavier.
    pub severity: Severity,
    pub title: &'static str,
    /// Why this happens and why it matters.
    pub cause: &'static str,
    /// Who is to blame, most likely.
    pub suspect: &'static str,
    /// What to do next; `{interface}` in it is the finding's, where it is of one.
    pub remedy: &'static str,
}

impl CodeDoc {
    /// What to do, of an interface where one is known.
    pub fn remedy_on(&self, interface: Option<&str>) -> Cow<'static, str> {
        const PLACE: &str = "{interface}";
        if self.remedy.contains(PLACE) {
            return Cow::Owned(self.remedy.replace(PLACE, interface.unwrap_or("INTERFACE")));
        }
        Cow::Borrowed(self.remedy)
    }
}

/// The code's entry.
pub fn find(code: &str) -> Option<&'static CodeDoc> {
    CODES.iter().find(|c| c.code == code)
}

/// Writes the registry and its type from one list: a code that is not in it does not compile.
macro_rules! codes {
    ($($name:ident $code:literal $severity:ident, $title:literal, cause: $cause:literal, suspect: $suspect:literal, remedy: $remedy:literal;)*) => {
        /// The code of a finding, as it is written: `NET_020` is `NET-020`.
        #[expect(non_camel_case_types, reason = "a code is named as people write it")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($name,)*
        }

        /// Every code, in the order of [`Code`].
        pub const CODES: &[CodeDoc] = &[
            $(CodeDoc {
                code: $code,
                id: Code::$name,
                severity: Severity::$severity,
                title: $title,
                cause: $cause,
                suspect: $suspect,
                remedy: $remedy,
            },)*
        ];
    };
}

impl Code {
    pub const fn doc(self) -> &'static CodeDoc {
        &CODES[self as usize]
    }

    pub const fn as_str(self) -> &'static str {
        self.doc().code
    }

    /// `NET` of `NET-020`.
    pub fn family(self) -> &'static str {
        self.as_str().split('-').next().unwrap_or("")
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

/// As they are written.
impl Ord for Code {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl PartialOrd for Code {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

// Families: COV coverage, RUN the probes' processes, VAL validity of measurements, ENV the machine,
// FAB the InfiniBand fabric, GPU the GPUs' health, GEM gemm, MEM memory, CPY copies to and from GPUs, NET tcp and the network, RDM RDMA
// devices, COL collectives, NCL NCCL, STO storage, CLU the cluster, CLK clocks, HET differences between nodes, PER nodes against their
// peers, IMG a container image, LEM who failed before, PLN the plan, MOR a run that ended.
codes! {
    COV_001 "COV-001" Hold, "nothing was measured",
        cause: "No probe returned a sample. An empty record proves nothing about the machine, so it cannot be a GO.",
        suspect: "the selection, or a run that was killed at once",
        remedy: "run `gonogo check` again without --only; if it ends early, read the findings of family RUN";
    COV_002 "COV-002" Hold, "a required check did not run",
        cause: "A check that was planned has no result: it was cut for time, interrupted, never reached, or left out although the plan requires it. What was not measured is not known to be good.",
        suspect: "the time budget, or the failure named beside it",
        remedy: "give more time with --budget, drop --skip, or accept it by name with a [[waive]] entry in the plan";
    COV_003 "COV-003" Warn, "a device is there that was not measured",
        cause: "Discovery sees a GPU that no probe could exercise. A GO says nothing about it. When the plan asks for GPUs, this holds the gate.",
        suspect: "a driver or library that is missing (the waivers say which), or a maker whose GPUs this version does not measure",
        remedy: "test the device with another tool before the launch, and do not read this report as proof of it";
    COV_004 "COV-004" Hold, "the run was interrupted",
        cause: "A signal ended the run, or it died: the record has no end. What was measured until then counts; the rest is unknown.",
        suspect: "the scheduler's time limit, or whoever pressed Ctrl-C",
        remedy: "run `gonogo check` again and let it end; a shorter --budget fits a tight time limit";
    COV_005 "COV-005" Hold, "the record is cut off",
        cause: "The last line of the record is incomplete: the process or the disk stopped in the middle of a write. Everything before it was used.",
        suspect: "a full disk, or a killed process",
        remedy: "check the space where the record lies (`df -h`), then run `gonogo check` again";
    COV_006 "COV-006" Warn, "no checkpoint directory was checked",
        cause: "Nobody named the directory that the run will save to, so nothing is known of its size, speed or permissions. Runs were lost to exactly this.",
        suspect: "the command line",
        remedy: "give --path DIR, or [checkpoint] dir in the plan with the model's size";
    COV_007 "COV-007" Warn, "the network is not proven: nothing says what it should reach",
        cause: "Nodes were held against each other only, and the all-reduce of all nodes against nothing. A network that is slow for all of them alike looks well by that: a wrong link speed, an oversubscribed switch, the wrong interface everywhere. With `strict = true` under [require] this holds.",
        suspect: "no demand in the plan, adapters that tell no rate, and no baseline",
        remedy: "say what it should reach: min_tcp or min_busbw under [require] (or [[require.link]], [[require.collective]]); or learn it from a healthy run: gonogo baseline learn RECORD -o baseline.toml, then --baseline";
    COV_008 "COV-008" Warn, "the node of a watch could not be looked at",
        cause: "A watch looks at the counters of its own node in a process beside it, now and then. That process did not start, ended badly, or did not end in time: a driver or a file system of the node that does not answer holds it.",
        suspect: "a driver that hangs, or a node without memory or processes to spare",
        remedy: "run `gonogo discover` on the node; where it hangs, look at processes in state D (`ps axo stat,pid,wchan,cmd`) and at `dmesg`";
    RUN_001 "RUN-001" Hold, "a probe's process died",
        cause: "The process that measured ended by a signal or with an unexpected status. The agent goes on, the case has no result.",
        suspect: "the node: memory pressure, a broken driver or library; or a bug in gonogo",
        remedy: "look in `dmesg` for the time of the run (out of memory, machine check), then run that probe alone with --only";
    RUN_002 "RUN-002" Hold, "a probe ran out of time",
        cause: "The probe did not end by its deadline and was killed. A hang is a result: on healthy hardware probes end within a quarter of their deadline.",
        suspect: "the device that the case names: a hung file system, a stuck driver, a starved CPU",
        remedy: "run that probe alone with --only; if it hangs again, look at `dmesg` and at processes in state D";
    RUN_003 "RUN-003" Hold, "a probe's process wrote what is not gonogo's protocol",
        cause: "The child process printed text or too much data where frames belong, as a preloaded library or a wrapper script may do. Nothing it says can be trusted.",
        suspect: "LD_PRELOAD, a wrapper around the binary, or a mixed installation",
        remedy: "run with a clean environment (`env -i PATH=$PATH gonogo check`) and compare `gonogo --version` on every node";
    RUN_004 "RUN-004" Hold, "a probe gave up with an error",
        cause: "The probe met an error that it could name; the evidence repeats it.",
        suspect: "what the error names",
        remedy: "mend what the error names, then run that probe alone with --only";
    VAL_001 "VAL-001" Hold, "a measurement is better than physics allows",
        cause: "The value lies beyond the bound of the hardware or is no number. Such a value is a mistake of the measurement (a cache, a clock, a unit), never excellence.",
        suspect: "the measurement: caching, a virtual clock, or a bug in gonogo",
        remedy: "run that probe alone with --only at --tier standard; if it stays, report it with the record";
    VAL_002 "VAL-002" Hold, "others used the machine while it was measured",
        cause: "Processes that are not gonogo's, or the hypervisor, took CPU time during a case that came out slow or open, or when it was to be confirmed. What a hypervisor does not say in `steal` shows in how slowly an empty loop turned just before and after. A slow result on a busy machine says nothing about the hardware.",
        suspect: "another job, a daemon, a noisy neighbour",
        remedy: "find it with `top` (or `steal` in `vmstat 1`; on a virtual machine ask who shares its cores), end it or wait, then run `gonogo check` again";
    VAL_003 "VAL-003" Hold, "a measurement does not allow a verdict",
        cause: "The interval of the median straddles the limit: too few samples, or too much spread between them, also after measuring again.",
        suspect: "varying clocks, interrupts, other tenants",
        remedy: "give more time with --budget or --tier standard; pin the clocks (`cpupower frequency-set -g performance`)";
    VAL_004 "VAL-004" Warn, "the machine was busy before measuring began",
        cause: "Before the first measurement, processes that are not gonogo's took CPU time. Results may be lower than what the run will see, or the run will share its nodes.",
        suspect: "another job, a daemon, a noisy neighbour",
        remedy: "find it with `top` and end it, or reserve the node exclusively (`--exclusive` under Slurm)";
    VAL_005 "VAL-005" Hold, "a measurement is near the resolution of the clock",
        cause: "The interval timed is so short that the clock's own step makes up a noticeable part of it.",
        suspect: "a coarse clock source",
        remedy: "look at /sys/devices/system/clocksource/clocksource0/current_clocksource: it should be tsc or arch_sys_counter";
    VAL_006 "VAL-006" Hold, "a measurement failed at one time and passed at another",
        cause: "What fails is measured again, apart in time. Here the attempts contradict each other, and no process of others explains it: clocks that were held down for a while, or, on a virtual machine, a host that took cores without saying so. Neither attempt says what the run will get.",
        suspect: "power or heat (a fan, a cap), other guests of the host, a governor that is slow to raise the clock",
        remedy: "check again; if it stays unsteady, look at the clocks under load (`turbostat`, `nvidia-smi -q -d PERFORMANCE`) and at the host of a virtual machine, and leave the node out until it holds";
    ENV_001 "ENV-001" Warn, "the memlock limit is low beside an InfiniBand device",
        cause: "Registering memory with an HCA pins it. A limited RLIMIT_MEMLOCK makes ibv_reg_mr fail with ENOMEM, inside the launcher even when a login shell shows `unlimited`.",
        suspect: "limits of slurmd or the container runtime",
        remedy: "set LimitMEMLOCK=infinity in slurmd.service, or `--ulimit memlock=-1` for containers, and check inside the job";
    ENV_002 "ENV-002" Warn, "the limit of open files is low",
        cause: "Communication libraries open several descriptors a peer; at hundreds of ranks 1024 are not enough and start-up fails.",
        suspect: "limits of the login shell, slurmd or the container runtime",
        remedy: "raise it: `ulimit -n 65536`, LimitNOFILE in slurmd.service, or `--ulimit nofile` for containers";
    ENV_003 "ENV-003" Warn, "the control group allows less CPU time than there are cores",
        cause: "A quota throttles the whole group for the rest of each period once it is used up: stalls of tens of milliseconds that no microbenchmark explains.",
        suspect: "the job's or pod's CPU limit",
        remedy: "ask the scheduler for all cores of the node, or remove the pod's cpu limit";
    ENV_004 "ENV-004" Warn, "the frequency governor saves power",
        cause: "With powersave or ondemand a core takes milliseconds to reach its clock: latencies and the first iterations suffer.",
        suspect: "the node's image",
        remedy: "cpupower frequency-set -g performance";
    ENV_005 "ENV-005" Warn, "/proc or /sys lacks what discovery needs",
        cause: "Files are absent or unreadable for this user, so parts of the machine are unknown. Unknown is not healthy.",
        suspect: "a container without /sys, or a hardened kernel",
        remedy: "run on the host or mount /proc and /sys read-only into the container";
    ENV_006 "ENV-006" Fail, "the node has fewer GPUs than the plan needs",
        cause: "The plan states GPUs per node; the PCI bus shows fewer. A GPU that fell off the bus is not there to be tested.",
        suspect: "a dead GPU, or the wrong node type",
        remedy: "look at `dmesg | grep -i -e xid -e 'fallen off'` and `lspci`; exclude the node until it is mended";
    ENV_007 "ENV-007" Warn, "GPUs and InfiniBand without nvidia_peermem",
        cause: "Without nvidia_peermem or dma-buf the HCA cannot reach GPU memory; traffic is staged through the host at half rate and worse.",
        suspect: "the node's image",
        remedy: "modprobe nvidia_peermem (or use the open kernel driver with dma-buf), then check NCCL's log for GDRDMA";
    ENV_008 "ENV-008" Warn, "/dev/shm is small",
        cause: "NCCL and data loaders keep shared buffers there; containers get 64 MiB unless told otherwise, and the failure is a crash in the middle of the run.",
        suspect: "the container's start options",
        remedy: "start the container with --shm-size=8g or --ipc=host; in Kubernetes mount an emptyDir with medium: Memory";
    ENV_009 "ENV-009" Warn, "NCCL_IB_HCA takes more devices than it names",
        cause: "Without a leading = the names are beginnings: mlx5_1 is also mlx5_10 to mlx5_19. NCCL then runs over devices that were not meant, a storage network's among them.",
        suspect: "the job script, or the image",
        remedy: "write it with =: export NCCL_IB_HCA==mlx5_1,mlx5_2";
    ENV_010 "ENV-010" Warn, "NCCL_IB_HCA names a device that is not there",
        cause: "Names change with the driver, the firmware and udev rules. NCCL uses what is left of the list, or falls back to sockets without a word.",
        suspect: "the job script, or the image",
        remedy: "compare with `ibdev2netdev` or /sys/class/infiniband, or leave the variable out";
    ENV_011 "ENV-011" Fail, "NCCL_SOCKET_IFNAME names no interface that is up",
        cause: "The bootstrap of the job looks for an interface of this name and finds none: it hangs or dies in its first collective.",
        suspect: "the job script, or the image",
        remedy: "name an interface that is up on every node (`ip -br addr`), or leave out what is not meant: ^lo,docker0";
    ENV_012 "ENV-012" Warn, "NCCL_IB_GID_INDEX is fixed",
        cause: "The index of the right address differs from node to node and changes when an interface gets another one. NCCL 2.21 and later choose by themselves; a fixed index that is wrong ends in status 12.",
        suspect: "the job script, or the image",
        remedy: "leave the variable out; with an NCCL before 2.21 compare `show_gids` on all nodes";
    ENV_013 "ENV-013" Warn, "NCCL_IB_DISABLE keeps NCCL off the RDMA devices",
        cause: "All traffic between nodes goes through sockets: a tenth of the rate, and nothing says so.",
        suspect: "the job script, or the image",
        remedy: "unset NCCL_IB_DISABLE";
    ENV_014 "ENV-014" Fail, "RDMA devices without /dev/infiniband",
        cause: "The kernel has RDMA devices and this container was not given their device files: everything falls back to sockets.",
        suspect: "the container's options",
        remedy: "docker: --device=/dev/infiniband --ulimit memlock=-1 --cap-add=IPC_LOCK; Kubernetes: the RDMA device plugin; enroot and pyxis: the MELLANOX hook";
    ENV_015 "ENV-015" Warn, "the IOMMU translates for every device",
        cause: "Peer-to-peer traffic between GPU and adapter goes up to the root complex and through the IOMMU: a fraction of the rate, or none.",
        suspect: "the kernel's command line",
        remedy: "boot with iommu=pt (or with the IOMMU off in the firmware), and look for ACS on PCIe switches (`lspci -vvv | grep ACSCtl`)";
    ENV_016 "ENV-016" Warn, "the process may not run beside the RDMA device",
        cause: "The CPUs that the launcher gave lie on another NUMA node than the device: every message crosses the socket link.",
        suspect: "the launcher's binding (--cpu-bind, --cpus-per-task, a cpuset), or the order of devices in it",
        remedy: "bind ranks to the NUMA node of their adapter (`srun --cpu-bind=map_ldom:...`, `mpirun --map-by numa`); `nvidia-smi topo -m` shows which is where";
    ENV_017 "ENV-017" Warn, "PCIe bridges send peer-to-peer traffic up to the root complex",
        cause: "Access Control Services are on in bridges above GPU or adapter: GPUDirect goes by way of the CPU, at a fraction of the rate, or hangs.",
        suspect: "the firmware's settings or the kernel: ACS comes with virtualisation",
        remedy: "turn ACS off in the firmware, or at each boot: `setpci -s BRIDGE ECAP_ACS+0x6.w=0000`; in a virtual machine leave it and use ATS";
    ENV_018 "ENV-018" Fail, "libibverbs has no provider for an RDMA device",
        cause: "The kernel has the device and the user-space part of its driver is not installed: no program can open it, and NCCL falls back to sockets.",
        suspect: "the image",
        remedy: "install the providers of rdma-core (Debian: ibverbs-providers), or the vendor's; `ibv_devices` must list the device";
    ENV_019 "ENV-019" Warn, "RoCE runs without congestion control",
        cause: "Neither ECN nor priority flow control is on for any class of this port: a full queue drops packets, and each loss costs a retransmission timeout.",
        suspect: "the adapter's settings, and those of the switches to match",
        remedy: "turn on PFC and ECN for one class at hosts and switches (`mlnx_qos -i {interface} --pfc 0,0,0,1,0,0,0,0`), and send in it (NCCL_IB_TC)";
    GPU_001 "GPU-001" Hold, "the GPUs' driver cannot be asked",
        cause: "GPUs are on the PCI bus and NVML does not answer: no job can use them, or this container was not given the driver.",
        suspect: "the driver (not loaded, or of another version than its libraries), or the container's options",
        remedy: "nvidia-smi; `Driver/library version mismatch`: restart; in a container: --gpus all, or the NVIDIA container runtime";
    GPU_002 "GPU-002" Fail, "a GPU is lost",
        cause: "The PCI bus shows it, or it was there a moment ago, and the driver does not know it any more. One that a container or control group was only not granted is not meant.",
        suspect: "the GPU, its slot, or its power",
        remedy: "look for Xid 79 in the kernel log; drain the node, power it off and on; if it comes again, replace the GPU";
    GPU_003 "GPU-003" Fail, "a GPU's memory has ECC errors",
        cause: "An uncorrected error is data that was lost, and kills the process that used it; many corrected ones come before it.",
        suspect: "the GPU's memory",
        remedy: "reset the GPU so that the row is remapped (`nvidia-smi -r`), run the check again; errors that come back: replace it";
    GPU_004 "GPU-004" Warn, "ECC is off",
        cause: "Errors of the memory are not seen, and change results silently.",
        suspect: "the GPU's settings",
        remedy: "nvidia-smi -e 1, then reset or restart";
    GPU_005 "GPU-005" Fail, "a GPU's memory is being repaired",
        cause: "Rows are remapped (or pages retired) where memory failed. Pending ones take effect with a reset; a remapping that failed means that no spare is left.",
        suspect: "the GPU's memory",
        remedy: "pending: `nvidia-smi -r` with nothing running; failed: replace the GPU";
    GPU_006 "GPU-006" Fail, "the driver reported an Xid error",
        cause: "The driver writes an Xid into the kernel log when a GPU, its link or a program on it failed. Those after which NVIDIA wants a reset count until the GPU is reset or the driver is loaded again; others that hardware is blamed for count for two hours; a program's own fault is only told.",
        suspect: "the GPU named by its PCI address",
        remedy: "look the number up in NVIDIA's catalogue of Xid errors; for those of hardware drain the node, reset the GPU (`nvidia-smi -r`) or reboot, and run the check again";
    GPU_007 "GPU-007" Fail, "a GPU slows itself down",
        cause: "The hardware holds the clocks down to save itself: heat, or too little power from the supply.",
        suspect: "cooling (fans, air, water, paste) or the power supply",
        remedy: "nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER; compare with the neighbours; power brake: look at the chassis's supplies";
    GPU_008 "GPU-008" Fail, "a GPU's PCIe link is degraded",
        cause: "The link came up with fewer lanes than GPU and slot have, or repeats packets: copies to and from the host are slower.",
        suspect: "the GPU's socket, the riser or the retimer",
        remedy: "reseat the GPU; `nvidia-smi -q -d PCIE`; `lspci -vv` says `downgraded`";
    GPU_009 "GPU-009" Fail, "NVLinks are down or count errors",
        cause: "Some of a GPU's links are up and others are not, or packets are repeated: NCCL goes around or gets slower.",
        suspect: "the GPU, the baseboard, or the NVSwitch at the other end",
        remedy: "nvidia-smi nvlink -s and -e; restart fabricmanager; if it stays, the board needs service";
    GPU_010 "GPU-010" Fail, "a GPU is not part of the NVSwitch fabric",
        cause: "Until it is registered with the fabric manager, CUDA fails with error 802 or P2P is not possible.",
        suspect: "nvidia-fabricmanager (not running, or not of the driver's version), or IMEX across nodes",
        remedy: "systemctl status nvidia-fabricmanager; its version must be the driver's exactly; nvidia-smi -q | grep -A4 Fabric";
    GPU_011 "GPU-011" Hold, "MIG is on",
        cause: "A GPU that is cut into slices cannot be used whole, and NCCL between slices is not what a training run uses.",
        suspect: "a previous user's settings",
        remedy: "nvidia-smi -mig 0 and reset, or take the node out of this partition; for a run on slices write `mig = true` under [nodes] in the plan";
    GPU_012 "GPU-012" Warn, "the compute mode is not the default",
        cause: "With an exclusive mode a second process on the GPU fails (a monitor, a data loader, MPS); prohibited means that none can compute.",
        suspect: "a previous user's settings",
        remedy: "nvidia-smi -c 0";
    GPU_013 "GPU-013" Info, "persistence mode is off",
        cause: "The driver unloads its state with the last process: each start takes seconds longer, and settings and counters are lost.",
        suspect: "the node's image",
        remedy: "start nvidia-persistenced";
    GPU_014 "GPU-014" Hold, "somebody is already on a GPU",
        cause: "A process computes on it or holds memory: what is measured is shared, and the run may not fit.",
        suspect: "another job, or what is left of one",
        remedy: "look at the process; end what is left over, or ask the scheduler for exclusive nodes";
    GPU_015 "GPU-015" Warn, "a GPU is set slower than it is",
        cause: "A power limit or application clocks below the factory's: every product is slower, on this GPU only.",
        suspect: "a previous user's settings, or a power plan",
        remedy: "nvidia-smi -pl WATTS (`nvidia-smi -q -d POWER` shows the default); nvidia-smi -rac";
    GPU_016 "GPU-016" Warn, "no datasheet of a GPU is known",
        cause: "Its products, memory and NVLinks are held against other GPUs of the same model only: what all of them lack is not seen.",
        suspect: "a model that is newer than this version of gonogo, a virtual GPU, or a variant that is sold in one market",
        remedy: "`gonogo list gpus` shows those that are known; learn a baseline from nodes that are known to be good (`gonogo baseline learn`)";
    GPU_017 "GPU-017" Fail, "memory of a GPU is in use before anything ran",
        cause: "The driver counts memory in use that no process to be seen accounts for. A run that is sized to the whole card dies of it, hours in or at its start.",
        suspect: "another container on the node, or a job that died and left its memory behind",
        remedy: "nvidia-smi and `fuser -v /dev/nvidia*` on the host; end what is left over; memory that nobody holds comes back with `nvidia-smi -r` or a reboot";
    GPU_018 "GPU-018" Warn, "the driver answers slowly",
        cause: "NVML took seconds for what takes milliseconds. A driver, or the system processor of one GPU, is slow for a while before it hangs.",
        suspect: "the GPU that is named; with none, the driver, or a host that is short of CPU time",
        remedy: "time nvidia-smi a few times; look for Xid 119 and 120 in the kernel log; restart the node before a long run";
    GPU_019 "GPU-019" Fail, "the NVLink fabric of a GPU is unhealthy",
        cause: "The fabric manager knows of links or routes that are degraded, being recovered, or wired or configured wrongly. Collectives go at the rate of the worst GPU.",
        suspect: "an NVLink, a cable or a switch tray of the rack, or its configuration",
        remedy: "nvidia-smi -q | grep -A12 Fabric; nvidia-smi nvlink -s; ask the rack's NMX controller or fabric manager; reset the GPU once the links are mended";
    GPU_020 "GPU-020" Fail, "the driver wants a GPU to be recovered",
        cause: "After an error the driver keeps a note of what has to be done before the GPU is used again: a reset, or a reboot of the node.",
        suspect: "the GPU named; GPU-006 beside it says what happened",
        remedy: "drain the node and do what the driver asks for: `nvidia-smi -r`, or a reboot; then run the check again";
    GPU_021 "GPU-021" Info, "the run's nodes are in several NVLink domains",
        cause: "Between domains GPUs reach each other by the network only, at a fraction of the rate inside. That is how racks are; a job must be placed with it in mind.",
        suspect: "the scheduler's placement, if one domain would have held the run",
        remedy: "keep groups that talk most (tensor and expert parallelism) inside a domain; under Slurm use --segment with the block topology";
    GPU_022 "GPU-022" Fail, "IMEX is not ready on a node of an NVLink domain",
        cause: "Nodes of one NVLink domain lend each other GPU memory through the IMEX daemon and a channel that the program has a device file of. Without them NCCL stops with an error or goes by the network, at a fifth of the rate.",
        suspect: "nvidia-imex (not running, or told of other nodes than its peers), or a container without the channel's device file",
        remedy: "systemctl status nvidia-imex; nvidia-imex-ctl -N; the same nodes_config.cfg on all nodes of the domain; give the container /dev/nvidia-caps-imex-channels/channel0";
    GPU_023 "GPU-023" Fail, "a GPU failed while it was used",
        cause: "The driver gave up a GPU in the middle of a measurement: uncorrectable memory, an NVLink, a kernel that died, or a GPU that is no longer on the bus. A run would have ended there.",
        suspect: "the GPU that the case names: its memory, its power, its socket on the board",
        remedy: "dmesg | grep Xid and nvidia-smi -q -d ECC on the node; drain it, reset the GPU or the node, and check it again with --tier standard";
    GEM_001 "GEM-001" Fail, "a matrix product is wrong",
        cause: "Rows recomputed in higher precision differ by more than rounding can explain. A CPU that computes wrongly corrupts a run silently.",
        suspect: "the CPU or its memory",
        remedy: "exclude the node; run memtest and the vendor's CPU diagnostics (look at `rasdaemon`, `mcelog`)";
    GEM_002 "GEM-002" Fail, "repeats of a matrix product differ",
        cause: "The same product of the same inputs gave different bits. Deterministic code on sound hardware cannot do that.",
        suspect: "the CPU or its memory",
        remedy: "exclude the node; run memtest and the vendor's CPU diagnostics (look at `rasdaemon`, `mcelog`)";
    GEM_003 "GEM-003" Fail, "a GPU computes other bits than its like",
        cause: "The same product by the same algorithm gave other bits than on most GPUs of this model. Sound hardware is deterministic: this GPU corrupts a run silently.",
        suspect: "the GPU",
        remedy: "exclude the node; reset the GPU and run the check again, with NVIDIA's field diagnostics (`dcgmi diag -r 4`) if it stays";
    GEM_004 "GEM-004" Fail, "a GPU's matrix product is wrong",
        cause: "Sampled elements differ from sums in double precision by more than rounding explains, or repeats of a product differ.",
        suspect: "the GPU",
        remedy: "exclude the node; look at ECC errors and Xids; run NVIDIA's field diagnostics";
    GEM_011 "GEM-011" Fail, "a GPU's matrix products are below their limit",
        cause: "Clocks held down (heat, power, settings), a GPU that is shared, or a library that does not know the chip.",
        suspect: "what the findings of family GPU name, or the version of cuBLASLt",
        remedy: "compare clock, power and temperature in the record with those of the other GPUs; nvidia-smi -q -d PERFORMANCE";
    GEM_010 "GEM-010" Fail, "GEMM throughput is below its limit",
        cause: "The cores deliver less arithmetic than the limit: throttling, a power cap, a governor, a CPU quota, or a narrower part than assumed.",
        suspect: "cooling, power cap, frequency governor, cgroup quota",
        remedy: "compare `grep MHz /proc/cpuinfo` under load with the nominal clock; look at the governor and at ENV-003";
    MEM_001 "MEM-001" Fail, "memory returned wrong data",
        cause: "An element read back is not what was written.",
        suspect: "a DIMM",
        remedy: "exclude the node; look at `edac-util -v` or `ras-mc-ctl --errors`, and run memtest";
    MEM_002 "MEM-002" Fail, "a GPU's memory returned wrong data",
        cause: "A word read back is not what was written.",
        suspect: "the GPU's memory",
        remedy: "exclude the node; `nvidia-smi -q -d ECC,ROW_REMAPPER`; reset the GPU and run the soak tier";
    MEM_011 "MEM-011" Fail, "a GPU's memory bandwidth is below its limit",
        cause: "Memory clocks held down, ECC repairs, or somebody else on the GPU.",
        suspect: "the GPU's settings or its memory",
        remedy: "nvidia-smi -q -d CLOCK,PERFORMANCE,ECC; compare with the other GPUs of the node";
    CPY_001 "CPY-001" Fail, "a copy to or from a GPU delivered wrong data",
        cause: "Words that arrived are not those that were sent. PCIe and NVLink have checksums: what gets past them was damaged at an end.",
        suspect: "the GPU, the host's memory, or peer-to-peer through an IOMMU",
        remedy: "exclude the node; try with ACS and IOMMU off (ENV-015, ENV-017); run memtest";
    CPY_010 "CPY-010" Fail, "copies to or from a GPU are below their limit",
        cause: "A PCIe link that came up narrow or slow, a switch that GPUs share, or memory on the wrong NUMA node.",
        suspect: "the GPU's link (GPU-008), or the placement of the process",
        remedy: "compare `alone` with all at once: slow alone is the GPU's link, slow together is what they share; nvidia-smi topo -m";
    MEM_010 "MEM-010" Fail, "memory bandwidth is below its limit",
        cause: "A missing or slowed memory channel, a NUMA setting, or a quota.",
        suspect: "DIMM population, BIOS NUMA settings",
        remedy: "look at `dmidecode -t memory` for empty or slow channels and compare with a healthy node";
    NET_001 "NET-001" Fail, "TCP delivered wrong data",
        cause: "Bytes that arrived are not those that were sent.",
        suspect: "memory, or the kernel",
        remedy: "exclude the node; run memtest";
    NET_010 "NET-010" Fail, "TCP bandwidth is below its limit",
        cause: "Loopback moves at the speed of memory copies; less means a starved CPU, a filter in the path, or a socket limit.",
        suspect: "CPU quota, iptables/eBPF filters, net.core and tcp_rmem/wmem settings",
        remedy: "compare with `iperf3 -s` and `iperf3 -c 127.0.0.1`; look at `sysctl net.ipv4.tcp_rmem net.ipv4.tcp_wmem`";
    NET_011 "NET-011" Fail, "TCP round trips take longer than their limit",
        cause: "A ping-pong over loopback is four context switches; more time means a scheduler or a power state that sleeps deeply.",
        suspect: "deep C-states, CPU quota, a busy machine",
        remedy: "limit C-states (`cpupower idle-set -D 10`) and look at VAL-004";
    COL_001 "COL-001" Fail, "a collective returned a wrong result",
        cause: "Inputs are whole numbers whose sums are exact in any order, so one wrong element is an error, not rounding.",
        suspect: "the node's memory or CPU; the rank is named",
        remedy: "exclude the node; run memtest and run the probe again with --only collective";
    COL_010 "COL-010" Fail, "all-reduce bus bandwidth is below its limit",
        cause: "The host backend is bound by loopback TCP and the addition; less means a starved CPU or memory.",
        suspect: "what tcp and memory show; the slowest rank is named when there is one",
        remedy: "mend what `tcp` and `memory` show first; they are the yardsticks of this one";
    COL_011 "COL-011" Fail, "all-reduce latency is above its limit",
        cause: "A small all-reduce is one exchange between processes; more time means wake-ups that are slow.",
        suspect: "deep C-states, CPU quota, a busy machine",
        remedy: "compare with the round trip of the tcp probe; limit C-states (`cpupower idle-set -D 10`)";
    NCL_001 "NCL-001" Fail, "NCCL communicates by sockets beside an RDMA device",
        cause: "NCCL found no network that it can use by RDMA and fell back to TCP sockets: a tenth of the bandwidth, and CPU time for all of it.",
        suspect: "NCCL_IB_DISABLE or NCCL_NET, a container without libibverbs, its provider or /dev/infiniband, or memlock",
        remedy: "read the ENV findings first; then run with NCCL_DEBUG=INFO and look for `NET/IB`; a container needs rdma-core and the devices";
    NCL_002 "NCL-002" Fail, "NCCL reaches an adapter without GPUDirect RDMA",
        cause: "Data to and from that adapter is copied through the host's memory, which costs about half of its bandwidth.",
        suspect: "nvidia_peermem not loaded and no dma-buf (open kernel driver 515 and CUDA 11.7), a plugin without it, or an adapter too far from the GPUs (NCCL_NET_GDR_LEVEL, or a topology that a virtual machine hides)",
        remedy: "`modprobe nvidia_peermem`, or use the open kernel modules; where the distance is the reason, give NCCL the real topology (NCCL_TOPO_FILE) or an adapter beside each GPU; RDM findings and the step rdma-gpu say which way fails and why";
    NCL_003 "NCL-003" Warn, "NCCL leaves an adapter alone",
        cause: "An adapter as fast as those in use, with an active port, is not in NCCL's list: its share of the bandwidth is lost.",
        suspect: "NCCL_IB_HCA, or a container that was given only some of the devices",
        remedy: "unset NCCL_IB_HCA or name all adapters of the compute network with `=`; compare `ls /dev/infiniband` inside and outside";
    NCL_004 "NCL-004" Warn, "ranks share an adapter while another idles",
        cause: "Fewer adapters carry a node's traffic than there are GPUs and adapters: channels queue up where they share.",
        suspect: "a topology that a virtual machine hides, NCCL_CROSS_NIC, or too few channels",
        remedy: "in a virtual machine give NCCL the real topology (NCCL_TOPO_FILE of the provider); else look at the lines `Channel .. via NET` of NCCL_DEBUG=INFO";
    NCL_005 "NCL-005" Warn, "GPUs of one node talk through the host's memory",
        cause: "NCCL found no direct way between the GPUs and copies through shared memory, bound by the CPU's memory.",
        suspect: "ACS or the IOMMU, NCCL_P2P_DISABLE, GPUs on different sockets, containers with a GPU each, or GPUs that have no peer access",
        remedy: "look at ENV-015 and ENV-017 and at `nvidia-smi topo -p2p r`; start one container with all GPUs of the node";
    NCL_006 "NCL-006" Warn, "NCCL's ring crosses NUMA nodes more often than it must",
        cause: "Each crossing goes over the sockets' link, which all of them share.",
        suspect: "CUDA_VISIBLE_DEVICES in an order of its own, or a topology that a virtual machine hides",
        remedy: "number the ranks in the order of the bus (CUDA_DEVICE_ORDER=PCI_BUS_ID), and give NCCL the real topology";
    NCL_007 "NCL-007" Warn, "NCCL does without a network plugin that was asked for or found",
        cause: "The library is not there, cannot be opened, does not fit this NCCL, or gave up when it began; what NCCL uses instead is slower where the plugin matters.",
        suspect: "an image without the plugin or without a library that it needs (libfabric, UCX, SHARP), one built for another NCCL, or devices that the container was not given",
        remedy: "put the plugin's folder and what it needs on LD_LIBRARY_PATH, of the version that its maker names for this NCCL; `ldd` of the plugin shows what is missing; NCCL_NET_PLUGIN=none says that none is wanted";
    NCL_008 "NCL-008" Fail, "NCCL's version differs between nodes",
        cause: "Communicators need one version everywhere; with two, making one fails or hangs.",
        suspect: "an image or a shared folder that not all nodes have alike",
        remedy: "start all nodes from one image; `gonogo diff` of two records shows what else differs";
    NCL_009 "NCL-009" Warn, "the environment overrides NCCL's tuning",
        cause: "These variables take decisions that NCCL makes by measuring and modelling this very machine; most were copied from another one.",
        suspect: "a job script, an image or /etc/nccl.conf",
        remedy: "unset them and run the check again; keep one only where a measurement on this cluster shows what it gains";
    NCL_010 "NCL-010" Warn, "NVLS is not available though the GPUs are joined by NVSwitches",
        cause: "The switches could add up what passes through them, which is worth a quarter of the all-reduce bandwidth from five GPUs on.",
        suspect: "nvidia-fabricmanager, a virtual machine without multicast, NCCL_NVLS_ENABLE=0, or too little memory on the GPUs",
        remedy: "look at GPU-010 and at the log of nvidia-fabricmanager; unset NCCL_NVLS_ENABLE";
    NCL_011 "NCL-011" Warn, "NCCL warned",
        cause: "NCCL writes a warning when a call of it failed or something is not as it should be; what it says is quoted.",
        suspect: "what the text names; `status=12` and `vendor err 129` mean that the other end did not answer: a wrong GID, an MTU that differs, a dead link",
        remedy: "follow the text; for errors of completions look at the RDM findings of both ends";
    NCL_012 "NCL-012" Warn, "GPUs without an adapter on their CPU",
        cause: "Their traffic crosses the sockets' link to reach the network, and GPUDirect RDMA is off over that distance.",
        suspect: "adapters in the wrong slots, one that is not seen, or a topology that a virtual machine hides",
        remedy: "compare `nvidia-smi topo -m` with the vendor's drawing; move the adapter, or give NCCL the real topology";
    NCL_013 "NCL-013" Warn, "a large collective takes far longer than NCCL expects",
        cause: "NCCL models each algorithm on the links that it sees; a large message that takes more than twice as long is held up by something that it does not see.",
        suspect: "a throttled GPU, a degraded link or adapter, ACS, other traffic",
        remedy: "look at the GPU, RDM and NET findings; without any, compare with other nodes";
    NCL_014 "NCL-014" Fail, "a collective inside an NVLink domain went by the network",
        cause: "All nodes are in one NVLink domain and NCCL joined them by its network. It falls back without a word where IMEX, a channel or a setting is missing: on GB200, 191 instead of 882 GB/s over four nodes.",
        suspect: "NCCL_MNNVL_ENABLE=0 or NCCL_CUMEM_ENABLE=0, IMEX (GPU-022), an NCCL before 2.21, or a container without an IMEX channel",
        remedy: "unset NCCL_MNNVL_ENABLE, NCCL_CUMEM_ENABLE and NCCL_P2P_DISABLE; start nvidia-imex on all nodes; give the container /dev/nvidia-caps-imex-channels/channel0; NCCL's log must say `MNNVL 1`";
    NCL_015 "NCL-015" Warn, "NCCL's own diagnostics found something",
        cause: "Since 2.31 NCCL moves data between every two GPUs that it will join directly, and compares GPUs, driver, ECC errors, NVLinks and settings of all ranks. What did not pass between GPUs holds; what differs is a warning.",
        suspect: "the link or device between the two GPUs that it names, peer access that a container or an IOMMU forbids, or ranks that were started with other settings",
        remedy: "read what it says of the pair; `nvidia-smi topo -p2p rw` and the findings of `copy` between GPUs show the same path; start all ranks with the same NCCL_* settings";
    STO_001 "STO-001" Fail, "the checkpoint directory returned different bytes",
        cause: "Pages read back, past the page cache, are not those that were written and synced.",
        suspect: "the disk, its controller, or the network file system",
        remedy: "do not save there; look at `dmesg` and the file server's log";
    STO_010 "STO-010" Fail, "checkpoint writes are slower than their limit",
        cause: "The run stalls for size / bandwidth at every save.",
        suspect: "the storage's network path, its server, a degraded RAID, other tenants",
        remedy: "compare with `fio --rw=write --bs=1M --fdatasync=128 --size=4G` in the same directory, on another node too";
    STO_011 "STO-011" Fail, "checkpoint reads are slower than their limit",
        cause: "A restart reads the whole checkpoint before the first step.",
        suspect: "the storage's network path, its server, a degraded RAID, other tenants",
        remedy: "compare with `fio --rw=read --bs=1M --direct=1 --size=4G` in the same directory, on another node too";
    STO_012 "STO-012" Fail, "operations on names are slower than their limit",
        cause: "Checkpoints of many files are bound by create and rename; a slow metadata server stretches every save.",
        suspect: "the metadata server, synchronous export options",
        remedy: "look at the load of the metadata server; save fewer and larger files";
    STO_013 "STO-013" Fail, "a node reaches the checkpoint directory slower than its peers",
        cause: "Measured twice, the node gets less than half of what most nodes get from the same directory. A save ends when its last node has written: the whole run waits for this one.",
        suspect: "the node's own way to the storage: its mount options, its network to the servers, an interface that fell back to a lower speed, a full local cache",
        remedy: "leave it out (--exclude); compare `mount`, `nfsstat -m` or `lfs check servers`, and `ethtool` of the storage interface with those of a healthy node";
    STO_020 "STO-020" Fail, "the checkpoints of the run do not fit",
        cause: "Size of a checkpoint times those kept (every save, when nobody limits them) with one in flight and one partial, over the share that may be filled, is more than what is free. The run would crash at a save, hours or days in.",
        suspect: "the mount, or a missing retention limit",
        remedy: "set [checkpoint] keep in the plan and in the trainer, or mount a larger file system";
    STO_021 "STO-021" Fail, "the files of the checkpoints do not fit",
        cause: "Inodes run out before bytes do: every rank writes files, and each checkpoint kept holds all of them.",
        suspect: "the file system's inode count, or a quota on files",
        remedy: "keep fewer checkpoints, write fewer files each, or make the file system with more inodes (`df -i`)";
    STO_022 "STO-022" Fail, "the checkpoint directory is missing",
        cause: "The path does not exist on this node: a mount that failed, or a path that exists elsewhere only.",
        suspect: "the mount, or a typing error",
        remedy: "look at `findmnt` on this node; create the directory or mend the plan's [checkpoint] dir";
    STO_023 "STO-023" Fail, "the checkpoint path is not a directory",
        cause: "The path names a file or a device.",
        suspect: "the plan, or --path",
        remedy: "give the directory that the run saves to";
    STO_024 "STO-024" Fail, "the checkpoint directory cannot be written",
        cause: "The file system is mounted read-only, or this user may not create files there (root squash, ownership). Ranks would fail at the first save.",
        suspect: "mount options, ownership, root squash",
        remedy: "look at `findmnt -T DIR` and `ls -ld DIR`, as the user and in the container that the job runs in";
    STO_025 "STO-025" Warn, "the checkpoint directory is not on storage that stays",
        cause: "tmpfs lives in memory; an overlay belongs to the container. Checkpoints there are gone with the node or the container, and compete with the run for memory.",
        suspect: "a container started without its volume",
        remedy: "mount the real file system into the container (`-v`, a PersistentVolumeClaim) and name it in the plan";
    STO_026 "STO-026" Fail, "the checkpoint directory is full",
        cause: "A write was refused for lack of space or quota while measuring with a tenth of what was free.",
        suspect: "a quota, other tenants, or a full disk",
        remedy: "look at `df -h`, `df -i` and the quota (`quota -s`, `lfs quota`) and make room";
    STO_027 "STO-027" Fail, "rename is not atomic",
        cause: "While a file was replaced by rename, a reader found it missing, short or mixed. A restart may load half a checkpoint.",
        suspect: "the network file system's caching options",
        remedy: "mount with coherent attributes (NFS: actimeo=0 or lookupcache=none), or do not rely on `latest` being replaced";
    STO_028 "STO-028" Warn, "nothing limits how many checkpoints stay",
        cause: "The plan states an interval and no `keep`: every save stays until the file system is full.",
        suspect: "the plan",
        remedy: "set [checkpoint] keep = N in the plan and the same in the trainer";
    STO_029 "STO-029" Fail, "saving takes more of the run than its budget",
        cause: "Checkpoint size over measured write bandwidth, once per interval, is more than [checkpoint] stall_budget of the run.",
        suspect: "storage bandwidth, or too short an interval",
        remedy: "save asynchronously, save less often, or use faster storage";
    STO_030 "STO-030" Warn, "storage was measured elsewhere than the plan saves",
        cause: "--path names another directory than the plan's [checkpoint] dir: the verdict on storage is about the former.",
        suspect: "the command line",
        remedy: "drop --path, or correct the plan";
    STO_031 "STO-031" Fail, "a quota is less than the checkpoints need",
        cause: "The file system has room, and this user, group or project may not use it: writes end with \"Disk quota exceeded\" while `df` shows free space.",
        suspect: "the quota, or a missing retention limit",
        remedy: "ask for a larger quota (`quota -s`, `lfs quota -u $USER DIR`), or set [checkpoint] keep in the plan and in the trainer";
    STO_032 "STO-032" Warn, "a part of the file system is fuller than the rest, or does not answer",
        cause: "Files lie on single targets (OSTs): a write to a full one fails with \"No space left on device\" while the sum is far from full, and one that is inactive holds files that nobody can read.",
        suspect: "an unbalanced or failed target",
        remedy: "`lfs df DIR` shows them; take it out of allocation (`lctl set_param osp.*.max_create_count=0`), move files off it (`lfs migrate`), or stripe checkpoints over all (`lfs setstripe -c -1 DIR`)";
    STO_033 "STO-033" Fail, "a save takes longer to become durable than the time to the next",
        cause: "Asynchronous saves go on in the background; when one lasts longer than the interval, the next waits for it or fills the hosts' memory, and a crash loses more than the plan says.",
        suspect: "storage bandwidth, or too short an interval",
        remedy: "save less often, keep fewer bytes (`bytes_per_parameter`), or use faster storage";
    STO_034 "STO-034" Fail, "what a save stages does not fit the hosts' memory",
        cause: "An asynchronous save holds a node's share of the checkpoint in its memory until it is durable. With less memory free the kernel kills the trainer at the first save.",
        suspect: "the node's memory, another program that holds it, or the number of copies",
        remedy: "use more nodes, fewer staging copies, or synchronous saves; free what others hold (`free -g`, `ipcs -m`, /dev/shm)";
    STO_035 "STO-035" Fail, "reading a checkpoint back takes longer than its budget",
        cause: "Every restart reads the whole checkpoint, as often as [checkpoint] restore_reads says, before the first step.",
        suspect: "the storage's read bandwidth, or every replica reading all",
        remedy: "let one replica read and broadcast to the others, or use faster storage; `gonogo forecast` says what restarts cost";
    STO_036 "STO-036" Warn, "saving gets slower as nodes are added",
        cause: "All nodes together write less in a second than fewer of them did: clients stand in each other's way at the server, and a larger run saves slower than a smaller one.",
        suspect: "the server's threads or slots, its metadata, lock contention, or files of many nodes on one target",
        remedy: "let fewer ranks write (one a node), spread files over directories and targets (`lfs setstripe`), raise the NFS server's threads";
    STO_037 "STO-037" Warn, "the mount may lose what was written",
        cause: "With `soft`, an NFS client gives a write up when the server is slow, and says so only to who asks after (fsync, close); without barriers a power loss takes what fsync promised.",
        suspect: "the mount's options",
        remedy: "mount with `hard` (NFS), or without `nobarrier`; at least let the trainer check what fsync and close return";
    STO_038 "STO-038" Warn, "what the mount says of its free space may be wrong",
        cause: "With `lazystatfs`, Lustre answers `df` without the targets that do not answer: what it calls free is the rest.",
        suspect: "the mount's options",
        remedy: "`lfs df DIR` shows every target; mount with `nolazystatfs` to be told";
    CLU_001 "CLU-001" Fail, "a node never joined",
        cause: "The launcher names the node, and no agent came from it in time: it is down, its task did not start, it cannot reach rank 0, or its token differs.",
        suspect: "the node, its network, or its environment",
        remedy: "look at `sinfo -n NODE`, at the launcher's own messages, and at CLU-007 beside this; raise --join-timeout if nodes start slowly";
    CLU_002 "CLU-002" Fail, "a node was lost during the check",
        cause: "The connection of the node's agent broke: the process or the node died, or its network went. The run would have died with it.",
        suspect: "the node",
        remedy: "look at `dmesg` and the BMC's log of the node for the time of the check; keep it out until that is explained";
    CLU_003 "CLU-003" Fail, "a node stopped answering",
        cause: "The node's agent is connected and says nothing: it is stopped, starved of CPU, or stuck in the kernel; or what it says is lost on the way, where large packets do not pass. Collectives of a run would hang on it.",
        suspect: "the node: a stopped or stuck process, memory pressure, a dead network file system",
        remedy: "look at processes in state T and D on the node (`ps axo stat,pid,wchan,cmd`), and at `dmesg`; if none is there, `ping -M do -s 1472 NODE` (8972 with an MTU of 9000) must pass";
    CLU_004 "CLU-004" Hold, "a node runs another gonogo",
        cause: "Version, commit or the binary itself differs from that of rank 0. Its figures are not comparable, so it was not measured. A node with another image has other libraries, too.",
        suspect: "the node's image, or a stale copy of the binary",
        remedy: "compare `sha256sum $(command -v gonogo)` on the nodes; install one image everywhere";
    CLU_005 "CLU-005" Warn, "a node was given another plan",
        cause: "The plan file or the flags on the node differ from those of rank 0. The check follows rank 0; the run that starts there may not.",
        suspect: "a copy of the plan that was not updated",
        remedy: "keep the plan on a shared file system, or copy it again";
    CLU_006 "CLU-006" Fail, "a node takes itself for another",
        cause: "Its rank or the size of its world contradicts the others': two tasks claim one rank, or the launcher's variables were overwritten.",
        suspect: "the job script, or a wrapper that exports RANK or WORLD_SIZE",
        remedy: "compare `srun env | grep -E 'RANK|SIZE|PROCID|NTASKS'` over the nodes";
    CLU_007 "CLU-007" Warn, "callers without the token reached the coordinator's port",
        cause: "Connections came that could not prove the token: a port scan, another program's client, or a node with another token. They were dropped and cost nothing.",
        suspect: "a scanner, or GONOGO_TOKEN differing between nodes",
        remedy: "if a node is missing above, compare its token; else find who calls from these addresses";
    CLU_008 "CLU-008" Warn, "nodes share one machine",
        cause: "Several agents run under one kernel: containers or virtual hosts on one machine, or more than one task counted as a node. What they share is not measured twice over.",
        suspect: "the launcher's placement",
        remedy: "start one task a node (`srun --ntasks-per-node=1`), unless this is meant";
    CLU_009 "CLU-009" Fail, "the node's Slurm daemon died during the check",
        cause: "The check itself was started before and went on; the next job step, which is the launch, cannot start on this node. Slurm notices only after SlurmdTimeout (300 s by default).",
        suspect: "slurmd on the node: killed for memory, crashed, or restarted by hand",
        remedy: "leave the node out, or start it again: systemctl status slurmd; journalctl -u slurmd -n 50; systemctl start slurmd";
    CLU_010 "CLU-010" Warn, "a node that is not of this job asked to join",
        cause: "It holds the token and is none of the nodes that the launcher named, or claims the place of one that has joined. It was kept out, and no node is blamed for it.",
        suspect: "a task of another job that was given this job's token, or somebody who read it",
        remedy: "make a token for each job (`export GONOGO_TOKEN=$(openssl rand -hex 32)` in the job script), and see who could read this one";
    CLU_011 "CLU-011" Hold, "a node never joined while callers without the token filled the port",
        cause: "So many connections without the token came to the coordinator's port that some were dropped before they could prove anything. The node may have been among them: nothing is proven of it.",
        suspect: "who called (CLU-007 names the addresses): a scanner, a client that retries without end, or an attack",
        remedy: "stop what calls, or give the coordinator an address that it does not reach (--bind, --rendezvous), and check again";
    CLU_012 "CLU-012" Fail, "a node restarted since the check",
        cause: "Its boot id is another than the one that the check kept. What the check proved was true of the boot before; why it restarted is open, and the run's processes on it are gone.",
        suspect: "a kernel panic, a machine check, a lost power supply, or an administrator",
        remedy: "`last -x reboot | head`, `journalctl -b -1 -e`, and the BMC's log tell why; check the node again before it is used: gonogo check --tier node";
    CLU_013 "CLU-013" Fail, "there are fewer nodes than the run needs",
        cause: "The plan's [nodes] needed (and spares) is more than there were in this check: however well they are, the run cannot begin on them, or has nobody to take a place.",
        suspect: "the allocation, or a plan that was written for another one",
        remedy: "ask for as many nodes as the plan needs (`srun -N`), or correct [nodes] needed in the plan";
    CLK_001 "CLK-001" Warn, "clocks differ between nodes",
        cause: "The newest checkpoint is found by its time, logs are merged by theirs, and certificates are valid from one. A minute apart, such things break.",
        suspect: "NTP or PTP on the node",
        remedy: "chronyc tracking; chronyc makestep";
    FAB_001 "FAB-001" Fail, "a link runs at less than its width",
        cause: "Some of the cable's lanes do not work: the link came up with what was left. Everything routed over it gets a fraction of its rate, and static routing sends the same flows there every time.",
        suspect: "the cable, its connectors, or the port at either end",
        remedy: "reseat both ends, then swap the cable; ibportstate LID PORT reset (or mlxlink -d DEV -p PORT) trains it anew";
    FAB_002 "FAB-002" Fail, "a link runs at less than its speed",
        cause: "The ends settled on a slower signalling than their like: a cable of another class, a port forced to a speed, or too many errors at full speed.",
        suspect: "the cable's class, a port's settings, or dirt in a connector",
        remedy: "look at `ibportstate LID PORT query` for the enabled speeds of both ends; swap the cable for one of the right class; clean optical connectors";
    FAB_003 "FAB-003" Fail, "a port does not come up",
        cause: "The port has no cable or trains again and again, or is up physically and was given no LID and no state by a subnet manager: no traffic passes.",
        suspect: "the cable, or the subnet manager",
        remedy: "no link: plug in the cable (`ibstat` says Polling until then); training: reseat or swap the cable; Initialize or Armed: look at the subnet manager's log (FAB-010)";
    FAB_004 "FAB-004" Warn, "a leaf has fewer uplinks than its peers",
        cause: "Each uplink that is missing takes its share from all hosts of the leaf, and the routing spreads over what is left.",
        suspect: "a cable that is unplugged or dead, or a disabled port",
        remedy: "compare the leaf's cabling with another leaf's; iblinkinfo -d shows its ports that are down";
    FAB_005 "FAB-005" Warn, "a cable counts errors",
        cause: "The receiver saw symbols or packets that were broken on the wire. Each costs a retry; many cost the rate of everything that is routed there.",
        suspect: "the cable, its connectors, or the port at either end",
        remedy: "clear the counters (ibqueryerrors -k), load the link, look again; when they move, reseat or swap the cable";
    FAB_006 "FAB-006" Warn, "a port drops packets",
        cause: "Packets waited in the switch until their lifetime was over: what is behind the port cannot take them. The port is the victim of what it sends to, or the fabric is congested.",
        suspect: "a slow receiver behind the port, or too many flows over it",
        remedy: "look at the host behind it (PCIe width, firmware, other findings); else at the routing and at who shares the link";
    FAB_007 "FAB-007" Fail, "a cable is missing",
        cause: "The expected topology has a cable between these ports, and the fabric has nothing at either.",
        suspect: "a cable that is unplugged or dead, a host that is down, a disabled port",
        remedy: "look at both ports; if the change is meant, save a new expected topology with ibnetdiscover";
    FAB_008 "FAB-008" Fail, "a cable is in the wrong port",
        cause: "The port is connected with another one than the expected topology says, or with one where that has none: traffic takes paths that nobody planned, and a rail may be crossed.",
        suspect: "whoever plugged it in last",
        remedy: "plug it where it belongs; if the change is meant, save a new expected topology with ibnetdiscover";
    FAB_009 "FAB-009" Fail, "rails are crossed",
        cause: "Each leaf carries one rail (the same device of every host), and this host's device hangs at another rail's leaf. Traffic that should stay within the leaf crosses the spine for this host only.",
        suspect: "two cables of the host that are swapped",
        remedy: "swap the host's cables; the other one of the pair is most likely named beside this";
    FAB_010 "FAB-010" Fail, "no subnet manager is master",
        cause: "Without a master nobody gives LIDs and routes: links stay in Initialize, and a node that reboots never comes back.",
        suspect: "opensm, or the managed switch that should run it",
        remedy: "sminfo; systemctl status opensm; look at the manager's log";
    FAB_011 "FAB-011" Fail, "two subnet managers are master",
        cause: "Both give LIDs and routes, each its own: connections break whenever either sweeps.",
        suspect: "a manager that was started by hand, or two fabrics that were joined by a cable",
        remedy: "stop one of them, or give them priorities; look for the cable that joined the fabrics";
    FAB_012 "FAB-012" Fail, "two nodes have one GUID",
        cause: "GUIDs are burnt into the hardware; who has another's is taken for it by the subnet manager, and both lose their connections.",
        suspect: "firmware that was copied from one device to another",
        remedy: "flint -d DEV q on both; burn the right GUID with flint -guid";
    FAB_013 "FAB-013" Fail, "two ports have one LID",
        cause: "Packets for one arrive at the other: routes are wrong for both.",
        suspect: "two subnet managers, or two fabrics that were joined",
        remedy: "see FAB-011; make the remaining manager sweep anew (kill -HUP of opensm)";
    FAB_014 "FAB-014" Warn, "a leaf is more oversubscribed than its peers",
        cause: "More hosts share fewer uplinks here than at other leaves: a run that is placed on them gets less across the fabric.",
        suspect: "the placement of hosts",
        remedy: "spread the hosts, add uplinks, or keep such hosts within one leaf's jobs";
    FAB_015 "FAB-015" Warn, "part of the fabric was not read",
        cause: "The capture holds lines that are not understood, or nodes that others point at and nobody describes: it was cut, or a node did not answer.",
        suspect: "the capture, or a node whose management agent does not answer",
        remedy: "capture again to the end (`ibnetdiscover > FILE`), and look at the tool's own warnings";
    FAB_016 "FAB-016" Warn, "error counters stand at their end",
        cause: "A counter of the old query stops at its largest value. Errors that came during the check would not show in it: that it did not move proves nothing.",
        suspect: "counters that nobody has cleared since errors that may be long gone",
        remedy: "clear them (`ibqueryerrors -k`, or `perfquery -R LID PORT`) and check again";
    FAB_017 "FAB-017" Warn, "a port has another link layer than its like",
        cause: "The same port of the same device is InfiniBand on nearly all nodes and Ethernet on this one, or the other way round: it cannot reach the others, and what names devices alike on all nodes fails on this one.",
        suspect: "the adapter's settings after a swap or a reset, or devices that are numbered otherwise on this node",
        remedy: "mlxconfig -d DEV query LINK_TYPE_P1; set it as on the other nodes (1 InfiniBand, 2 Ethernet), then mlxfwreset or reboot; else compare which device is in which slot";
    HET_001 "HET-001" Warn, "a node differs from the others",
        cause: "Kernel, driver, CUDA, firmware, hardware or settings are not those of most nodes, or no two nodes have the same. Mixed clusters fail in ways that no single node shows.",
        suspect: "the node's image or hardware",
        remedy: "bring the node to the image of the others, or leave it out";
    HET_002 "HET-002" Warn, "the GPUs of a node are not alike",
        cause: "GPUs of one node differ in model, firmware or memory. A run shares its work evenly: the least of them sets the pace and the batch that fits.",
        suspect: "a GPU that was changed for another, or an update that left one out",
        remedy: "compare `nvidia-smi --query-gpu=index,name,vbios_version,memory.total --format=csv`; bring all GPUs to one firmware, or leave the node out";
    STO_050 "STO-050" Fail, "the next checkpoint does not fit",
        cause: "What is free is less than a save takes: the next one fails, and a trainer that cannot save ends, or goes on and loses what it did.",
        suspect: "nobody moves or removes old checkpoints, or others fill the place",
        remedy: "make room before the next save: remove what STO-052 names, move old checkpoints away; then set [checkpoint] keep, or [watch] cold for `gonogo watch` to do it";
    STO_051 "STO-051" Warn, "the space for checkpoints ends while the run goes on",
        cause: "By the size of the saves so far and the time between them there is a save that does not fit, and it comes before the run is over.",
        suspect: "no retention, others who write there, or a cold place that fills up",
        remedy: "set [checkpoint] keep in the trainer, or [watch] cold in the plan; enlarge the place or its quota before that hour";
    STO_052 "STO-052" Warn, "a checkpoint was never completed",
        cause: "A later save is complete and this one is not: the run was interrupted while it was written. It takes space, and a resume from it fails.",
        suspect: "a crash or a kill during the save",
        remedy: "look at it and remove it; gonogo leaves it where it is";
    STO_053 "STO-053" Fail, "a copy in the cold place is not what was copied",
        cause: "After it was written and flushed, the file was read again past the cache, and its content differs. The copy is thrown away and the checkpoint stays.",
        suspect: "the cold place's storage, its network, or this node's memory",
        remedy: "do not trust other files there; read its servers' logs; check this node (`gonogo check --only memory,storage --path COLD`)";
    STO_054 "STO-054" Warn, "checkpoints cannot be moved away",
        cause: "The cold place refuses, is full, or is no other file system. Nothing is removed here meanwhile, so that the space still ends.",
        suspect: "its quota or free space, permissions, a mount that is gone",
        remedy: "mend the cold place; the watch tries again by itself";
    STO_055 "STO-055" Fail, "the checkpoint directory is not what it was",
        cause: "The directory cannot be read, or another file system is mounted there: saves fail, or go where a restart does not find them.",
        suspect: "a mount that dropped, a server that is away, an automounter",
        remedy: "findmnt -T DIR; mount it again and look where the latest save is; nothing is moved until it is back";
    STO_056 "STO-056" Warn, "nothing says whether checkpoints are complete",
        cause: "They stopped growing, which proves nothing: a save that hangs does not grow, either. What is not known to be complete is never moved.",
        suspect: "a layout that gonogo does not know, or a trainer that does not write its pointer",
        remedy: "set [watch] layout, or [watch] complete_file to the name of a file that the trainer writes last";
    STO_057 "STO-057" Warn, "a checkpoint cannot be copied as it is",
        cause: "A link in it leads out of it, or something in it is no file: a copy would not be the same checkpoint.",
        suspect: "a trainer that links to shared files, a socket or pipe left in the directory",
        remedy: "move it by hand, or have the trainer save plain files";
    STO_058 "STO-058" Warn, "saves are larger or slower than planned",
        cause: "What the plan was checked against is not what the run does: the space ends earlier, and saving costs more of the run.",
        suspect: "other settings than the plan's, or storage that became slow since the check",
        remedy: "correct [checkpoint] size or stall_budget; `gonogo check --only storage` tells whether the storage is slower than it was";
    STO_059 "STO-059" Warn, "the watch cannot tell what it sees",
        cause: "Its journal cannot be written, or the command for the alarm failed: what happens is not on record, or nobody hears of it.",
        suspect: "a full disk at --out, or an error in [watch] on_alarm",
        remedy: "give another --out; run the command by hand";
    STO_060 "STO-060" Hold, "nothing was saved for two intervals",
        cause: "Saves came regularly and then no more: the run hangs, or it saves somewhere else.",
        suspect: "a hanging collective, a full or lost mount, a run that ended",
        remedy: "look at the trainer's log and at its ranks; what was done since the last save is lost if it dies now";
    STO_061 "STO-061" Warn, "checkpoints come faster than they can be moved away",
        cause: "Moving one takes longer than the time to the next: the hot place fills up however long the watch works.",
        suspect: "[watch] rate, or a cold place that is slow",
        remedy: "raise [watch] rate, save less often, or let only milestones be moved";
    PER_001 "PER-001" Fail, "a node is slower than its peers",
        cause: "Measured twice, the node stays behind the median of all nodes by more than noise explains. A synchronous run goes as fast as its slowest node.",
        suspect: "the node: thermal throttling, a power cap, a CPU quota, a dead memory channel, a stray process",
        remedy: "leave it out (--exclude); on it look at clocks and temperatures (`turbostat`, `sensors`), quotas, and `dmesg`";
    PER_002 "PER-002" Fail, "a GPU is slower than the others of its model",
        cause: "Measured twice, the GPU stays behind the other GPUs of its model in this run by more than silicon, cooling and noise explain (1 to 3 % is usual). A synchronous run goes as fast as its slowest GPU.",
        suspect: "the GPU: heat, its power supply, lowered clocks, failing memory, a stray process, or a bad part",
        remedy: "look at `nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER,CLOCK` of this GPU beside another under load, and at fans and dust; reset it (`nvidia-smi -r -i N`); if it stays slow, leave the node out (--exclude) and have the GPU changed";
    PER_003 "PER-003" Fail, "the same GPU slot is slow on most nodes",
        cause: "GPUs in one slot stay behind those in the other slots on most nodes. That many GPUs are not bad by chance: it is what the slot has in common.",
        suspect: "the slot: the end of the air or water flow, a power supply or riser, the PCIe switch above it, or a setting that all nodes have",
        remedy: "leaving nodes out does not help; compare `nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER` of this slot with another's on one node, and ask the vendor about cooling and power of the slot";
    NET_020 "NET-020" Fail, "a node's network is slow",
        cause: "The node stays behind the fastest group of pairs of the same round and distance, both ways, with two partners or more that do well with others. What it loses is shown with its interval and the readings that prove it.",
        suspect: "the node's NIC, its cable or switch port, or its CPU",
        remedy: "leave it out (--exclude); on it look at `ethtool {interface}`, `ethtool -S {interface} | grep -E 'err|drop|disc'`, and the switch port's counters";
    NET_021 "NET-021" Fail, "a node sends slowly",
        cause: "What the node sends stays behind over every partner; what it receives does not. One direction of a link fails by itself.",
        suspect: "the node's transmit lane, its NIC's queue settings, or the switch port's receive side",
        remedy: "leave it out (--exclude); reseat or change the cable, and look at errors on the switch port";
    NET_022 "NET-022" Fail, "a node receives slowly",
        cause: "What the node receives stays behind over every partner; what it sends does not. One direction of a link fails by itself.",
        suspect: "the node's receive lane or buffers, or the switch port's transmit side",
        remedy: "leave it out (--exclude); look at drops (`ethtool -S {interface}`), the ring size (`ethtool -g {interface}`), and the cable";
    NET_023 "NET-023" Fail, "a pair of nodes is slow though both nodes are well",
        cause: "Every one of three tests of this pair was slow, and both ends do well with others: a route, an MTU, an address or a bad link that only this path takes.",
        suspect: "the path between the two",
        remedy: "compare `ping -M do -s 8972`, `tracepath` and routes between the two with those to their neighbours";
    NET_024 "NET-024" Fail, "a leaf is slow to the rest",
        cause: "Traffic over the leaf's uplinks stays behind that of other leaves, while its nodes do well among each other.",
        suspect: "uplinks or the switch itself",
        remedy: "look at the uplinks' width, speed and error counters on the leaf switch; leave its nodes out or together";
    NET_025 "NET-025" Warn, "the fabric is oversubscribed",
        cause: "Across leaves, all pairs together reach less than few pairs do: the uplinks are shared. No node is to blame, and leaving nodes out does not help. Where few pairs at a time are as slow it holds: that is an uplink, and with two leaves nobody can tell whose.",
        suspect: "the fabric's uplinks or its routing",
        remedy: "place the run's heavy traffic within leaves (topology-aware ranks), or expect this rate for all-reduce over leaves";
    NET_026 "NET-026" Fail, "traffic took another interface than the one claimed",
        cause: "The bytes were sent from one interface's address, and another interface counted them: the silent fall-back to the management network, whatever the speed.",
        suspect: "routes, or two interfaces in one subnet",
        remedy: "ip route get PEER from ADDRESS on the node; give each interface a subnet of its own, or set source routes";
    NET_027 "NET-027" Fail, "a node cannot be reached by its peers",
        cause: "The node reaches rank 0, and no partner could exchange data with it: a firewall, a route, or a dead data interface.",
        suspect: "the node's firewall or data network",
        remedy: "from another node: ping and `nc -z` to it; look at `nft list ruleset` and `ip route` there";
    NET_028 "NET-028" Hold, "a node's network is not proven",
        cause: "Too few tests of the node ended, or they contradict each other, or it was slow again and again and well at other times, by more than others' traffic explains: neither it nor its partners can be blamed. A node is cleared by two partners that are well. Of the run as a whole: slow readings that no node, leaf or pair explains, or pairs that all stay behind the link's rate.",
        suspect: "lost partners, or interference",
        remedy: "give more time with --budget, or accept it by name with a [[waive]] entry in the plan";
    NET_029 "NET-029" Fail, "two nodes could not exchange data",
        cause: "The test between them broke off, and nothing else is known against either: the path between the two, or one of them towards the other.",
        suspect: "the path between the two nodes",
        remedy: "read the error; for RDMA compare both ends' GIDs, MTU and link state (`ibv_devinfo -v`); for TCP the firewall and the routes";
    NET_030 "NET-030" Fail, "one direction between two nodes is slow",
        cause: "With two nodes nobody else tells what is ordinary, but a link carries both directions alike: one is far behind the other.",
        suspect: "what the first node sends, or what the second receives: cable, port, or a shaper",
        remedy: "on the first look at what it drops or paces (`ethtool -S`, `tc -s qdisc`), on the second at receive errors; swap the cable";
    NET_031 "NET-031" Fail, "what a node sends, or is sent, in large packets is lost",
        cause: "Connections open and small packets pass; of what fills whole packets nothing arrives. Somewhere on the way the MTU is smaller than at both ends and nobody says so (a switch port without jumbo frames), or large packets are dropped.",
        suspect: "the MTU of the node's switch port, or of its interface",
        remedy: "compare `ip link show {interface}` on the node, its peers and the switch port; from the node `ping -M do -s 8972 PEER` (for an MTU of 9000) must pass; leave it out (--exclude) until it does";
    NET_033 "NET-033" Hold, "a node is far from all others",
        cause: "Of many round trips with every partner even the shortest takes many times as long as between others: small messages, barriers and the first byte of every collective wait for it. Bandwidth need not suffer, so nothing else shows it.",
        suspect: "a path through a slow device (a firewall, a tunnel, software switching), interrupt coalescing or power saving of the interface, a delay that somebody set",
        remedy: "from the node `ping PEER` beside another node's; look at `tc qdisc show dev {interface}`, `ethtool -c {interface}` and `ip route get PEER`; leave it out (--exclude) until it is explained";
    NET_032 "NET-032" Fail, "two nodes have one address",
        cause: "The same address stands on two nodes' interfaces in one network: each takes the other's packets by turns, and connections break without a pattern.",
        suspect: "a node that was cloned, or an address that was given twice",
        remedy: "give one of them another address on {interface}; `arping -D -I {interface} ADDRESS` from a third node shows both answer";
    NET_034 "NET-034" Fail, "a node's link loses packets",
        cause: "TCP had to send segments again in the node's flows with whoever it was tested, and hardly in those of others. A flow within one rack bears it for a while; each loss over a longer way, in a collective of all nodes or in RDMA stops everybody until it is mended.",
        suspect: "cable, transceiver or switch port (dirty optics, a marginal link), a full queue of the adapter, a duplex or speed mismatch",
        remedy: "look at what drops: `ethtool -S {interface}`, `ip -s link show {interface}` and the switch port's counters; swap cable or transceiver; leave the node out (--exclude) until it does not";
    NET_035 "NET-035" Fail, "a node's link comes and goes",
        cause: "The carrier of an interface in use changed while the check ran, or under the run. Each time the network forgets the port for seconds, and NCCL ends a run whose peer is silent for longer.",
        suspect: "cable, transceiver, switch port, or somebody's hand at one of them",
        remedy: "`ip -d link show {interface}` and the kernel log (`dmesg -T | grep {interface}`) tell when; swap cable and transceiver, then the port; leave the node out (--exclude) until it stays up";
    NET_036 "NET-036" Hold, "others use a node's link",
        cause: "The interface, or the RDMA port, counted far more bytes than the test sent over it: another job, a backup, a file system. What the test reached says nothing of the link; it was measured again, and such tests are left out. It warns where two partners met the node undisturbed, and holds where not.",
        suspect: "another job on the node or its neighbours, traffic of a file system or a backup",
        remedy: "see who it is: `nethogs {interface}` or `ss -tip`, over RDMA `rdma resource show qp`; check again when it has ended, or give the run the node for itself";
    NET_037 "NET-037" Warn, "an interface counts errors",
        cause: "Packets arrived damaged or could not be sent while the check ran, or under the run; each is sent again by TCP, and lost to everything else.",
        suspect: "cable, transceiver, or the adapter",
        remedy: "`ethtool -S {interface}` tells which kind; swap cable or transceiver before the run if they grow";
    RDM_001 "RDM-001" Warn, "a port counts errors under traffic",
        cause: "Error counters of the port moved while this was measured, or under the run, and only what moved is told. Sequence errors and retries are packets that got lost on the way; congestion marks say that a queue on the way was full.",
        suspect: "the cable or the network between the nodes, or a receiver that is too slow",
        remedy: "symbol, link and receive errors: reseat or swap the cable; sequence errors and retries on RoCE: look for drops on the switch, and at PFC and ECN; out_of_buffer and RNR: at the receiver's CPU";
    RDM_002 "RDM-002" Warn, "an RDMA port is not active",
        cause: "The device is there and this port of it carries nothing: no cable, no link, or no subnet manager that would bring it up.",
        suspect: "the cable, the switch port, or the subnet manager",
        remedy: "ibstat; Polling: no light, look at the cable; Initialize: no subnet manager reaches it (FAB-010); Disabled: `ibportstate` or the driver turned it off";
    RDM_003 "RDM-003" Warn, "the RDMA MTU differs between two ends",
        cause: "A connection takes the smaller MTU of its ends, and costs more packets; and whoever sets it by hand on one side only loses packets silently (status 12) as soon as a larger one is sent.",
        suspect: "the MTU of one node's interface, or of its switch port",
        remedy: "set the same MTU on all interfaces and switch ports (`ip link set {interface} mtu 9000` gives RoCE 4096); `ibv_devinfo | grep active_mtu` shows what is used";
    RDM_004 "RDM-004" Warn, "rails are slower together than alone",
        cause: "All devices of a pair of nodes sent at once, and reached less than each alone: they share something that is too narrow.",
        suspect: "a PCIe switch or root port that several devices share, a link of PCIe that came up narrow, memory bandwidth, or too few CPUs for software devices",
        remedy: "compare `lspci -tv` with the board's manual; where all nodes show it alike, it is the design: plan with the sum, not with the rails";
    RDM_005 "RDM-005" Fail, "a port runs below the rate of its like",
        cause: "Ports of the same adapter model run at a higher rate: this one's link came up slower.",
        suspect: "the cable or transceiver, the switch port's settings",
        remedy: "reseat or swap the cable; `mlxlink -d DEVICE -m` or `ibportstate` tell why; `iblinkinfo` shows the other end";
    RDM_006 "RDM-006" Fail, "an InfiniBand link has one lane only",
        cause: "Links have four lanes, or two when split: with one left, three have failed.",
        suspect: "the cable or its connector",
        remedy: "reseat or swap the cable; then `ibportstate LID PORT reset`";
    RDM_007 "RDM-007" Info, "a port runs below what its adapter model can reach",
        cause: "The model exists in faster versions, or the other end is slower: no fault where it was bought so.",
        suspect: "the switch, the cable, or the version of the adapter",
        remedy: "compare with what was ordered (the board's number, PSID, tells)";
    RDM_008 "RDM-008" Warn, "the PCIe link of an RDMA device is narrower or slower than it could be",
        cause: "The link below the slot came up with fewer lanes or at a lower generation than both ends can do. Where it carries less than the port does, the port never reaches its rate.",
        suspect: "how the card sits in its slot, the riser, the slot, or bifurcation in the firmware",
        remedy: "reseat the card; `lspci -s ADDRESS -vv | grep LnkSta` says downgraded; look for the slot's width in the board's manual";
    RDM_009 "RDM-009" Fail, "an active InfiniBand port has no LID or no subnet manager",
        cause: "Without a local identifier nothing can be addressed on a subnet.",
        suspect: "the subnet manager",
        remedy: "`sminfo` on this node; start opensm or the switch's, and look for two of them (gonogo discover fabric)";
    RDM_010 "RDM-010" Warn, "a port is a limited member of its first partition",
        cause: "Two limited members of a partition cannot talk to each other: connections fail with status 12.",
        suspect: "the subnet manager's partitions",
        remedy: "make the hosts full members (partitions.conf: `=full`), or choose the entry that is: NCCL_IB_PKEY";
    RDM_011 "RDM-011" Fail, "RDMA delivered wrong data",
        cause: "Bytes that arrived are not those that were sent, and the link's checksums did not notice: they were damaged in memory or in an adapter.",
        suspect: "an adapter, memory, or a PCIe bridge on the way",
        remedy: "exclude both nodes; run the pair again with another partner each, and memtest on the one that stays wrong";
    RDM_012 "RDM-012" Fail, "RDMA is below its limit",
        cause: "The port carries less than its rate: PCIe too narrow (RDM-008), relaxed ordering off, the wrong NUMA node, a link at a lower speed, or congestion.",
        suspect: "the node's PCIe and placement where its loopback is slow, too; else the network",
        remedy: "compare loopback with pairs; ib_write_bw between the same nodes; look at RDM-001, RDM-005 and RDM-008";
    COL_020 "COL-020" Fail, "a group is slow only together",
        cause: "The all-reduce of this group stays behind that of the other groups of its size, and no pair in it is slow: what fails shows at scale only.",
        suspect: "a node of the group under load from several sides, or the switches between them",
        remedy: "give more time with --budget or a longer --tier: halving finds the node when enough others are well";
    COL_021 "COL-021" Hold, "a group's collective failed",
        cause: "The operation broke off with an error, and no single node is to blame by what is known.",
        suspect: "a node of the group, or the network between them",
        remedy: "read the error; run the group alone, then its halves";
    COL_022 "COL-022" Fail, "a node is slow only in large groups",
        cause: "Every group of this size with the node in it is slow, those with its partners and not with it are well, and in smaller groups and pairs the node is well, too.",
        suspect: "the node under load from several sides: its PCIe or NIC queues, its switch port's buffers, memory for many connections",
        remedy: "leave it out (--exclude); look at drops and pauses (`ethtool -S {interface}`) and the PCIe width while several nodes send to it";
    COL_023 "COL-023" Warn, "a collective is slower than its parts allow",
        cause: "What pairs of its nodes reached and what the algorithm needs say how long it takes; it takes more than twice as long. With more than four times, where smaller groups were well, it holds.",
        suspect: "many flows at once: the switches' buffers, routing that lays flows on one link, congestion control (PFC, ECN), or system noise that all wait for",
        remedy: "`gonogo explain RECORD --finding N` shows every size beside what it needs; look at the switches' discards and pauses while it runs, and at the first size that is slow";
    REH_001 "REH-001" Fail, "a rank computes slowly",
        cause: "In the rehearsed step its own products take longer than those of the ranks that do the same, before it waits for anybody. In the run all others wait for it in every step, and their collectives look slow, not its own.",
        suspect: "the rank's GPU (clocks, power cap, temperature) or its host's cores; where it is slow only while messages go: its memory, PCIe, or cores that interrupts share",
        remedy: "leave it out (--exclude); on it look at clocks and throttling (`nvidia-smi -q -d CLOCK,PERFORMANCE`, on a host the governor and who else computes), then `gonogo check --only gemm` there";
    REH_002 "REH-002" Warn, "computing and communication do not overlap",
        cause: "The plan sends gradients while it computes. Together the two take much longer than the one hidden behind the other would: they share what each needs. What is not hidden makes every step longer.",
        suspect: "one core for both, interrupts on the cores that compute, NCCL's channels beside large products, memory bandwidth",
        remedy: "give messages cores of their own (--cpus-per-task, cpu-bind), spread interrupts; on GPUs try CUDA_DEVICE_MAX_CONNECTIONS=1 and fewer NCCL channels (NCCL_MAX_CTAS), and rehearse again";
    REH_003 "REH-003" Warn, "steps vary from one to the next",
        cause: "A step waits for its slowest rank. Where each rank is late now and then, some rank is late in every step, and all pay for it though nobody is slow.",
        suspect: "what runs beside the job on the nodes: daemons, monitoring, garbage collection, other jobs; clocks that change",
        remedy: "look at what runs on the nodes meanwhile (`top`, `perf sched`); bind ranks to cores and leave one to the system";
    REH_004 "REH-004" Hold, "the step is slower than it should be",
        cause: "The rehearsed layers, times the model's layers and microbatches, take longer than the step_time that the plan reckons with; a real step has an optimiser, norms and data to wait for as well, and the run will not be ready when it should. Or they take longer than a baseline of these nodes says.",
        suspect: "a plan from other hardware, or a division (tp, pp, microbatch) that does not suit this cluster; against a baseline, what changed since",
        remedy: "`gonogo forecast RECORD` shows what it means in days; try other values under [parallel], or correct step_time";
    REH_005 "REH-005" Warn, "the step could not be rehearsed",
        cause: "The plan's division of the model does not fit the nodes that are here.",
        suspect: "[parallel], or how many nodes were checked",
        remedy: "check as many nodes as the message says, or correct [parallel]";
    STO_040 "STO-040" Fail, "the checkpoint directory is another file system on a node",
        cause: "Most nodes have the directory on one mount, this node on another: what it saves is not where the others look.",
        suspect: "a mount that failed on the node",
        remedy: "findmnt -T DIR on the node and on another; mount what is missing";
    STO_041 "STO-041" Fail, "a file is not seen by another node",
        cause: "What one node wrote is not there for this one in time: the directory is not shared, or caches hide it. A restart would load an old checkpoint or none.",
        suspect: "a missing mount, or the network file system's caching options",
        remedy: "findmnt -T DIR on both nodes; on NFS look at actimeo and lookupcache";
    STO_042 "STO-042" Fail, "a file reads differently on another node",
        cause: "What one node wrote and synced came back with other bytes on this one.",
        suspect: "the network file system's caching, or its server",
        remedy: "repeat with `sha256sum` on both nodes; keep checkpoints off this file system until it is explained";
    IMG_001 "IMG-001" Fail, "a library of the image cannot be loaded",
        cause: "The loader refuses it: a library that it needs is absent, it was built against another version, or the file is damaged. A program that is linked with it does not start; one that tries it (NCCL its plugin, UCX its modules) silently takes the slower path.",
        suspect: "a package that was copied without what it depends on, or two package sources that were mixed",
        remedy: "run `ldd` on the file in the image; install what it says is not found, from the same source as the library";
    IMG_002 "IMG-002" Fail, "the image lacks what it needs",
        cause: "A part that was stated as needed (--needs, or what --for-gpu implies) is not in the image, or no file of it can be loaded.",
        suspect: "the image's recipe",
        remedy: "install it; if it lies in a folder of its own, add that to /etc/ld.so.conf.d and run ldconfig; else state other --needs";
    IMG_003 "IMG-003" Fail, "RDMA has no provider in the image",
        cause: "libibverbs is there, and no library that drives an adapter can be loaded by it: programs see no device, and NCCL, UCX and MPI take TCP without a word. Providers must be of the same rdma-core as libibverbs.",
        suspect: "libibverbs1 without ibverbs-providers, or one of MLNX_OFED beside one of the distribution",
        remedy: "apt-get install ibverbs-providers (dnf install libibverbs) from the source that libibverbs came from; check with ibv_devices on a machine with adapters";
    IMG_004 "IMG-004" Warn, "NCCL would take TCP between nodes",
        cause: "NCCL loads libibverbs.so.1, or a net plugin, when it starts; without either it uses sockets, an order of magnitude slower, and says so only in its log.",
        suspect: "an image that was made for one machine",
        remedy: "install rdma-core with its providers, or the plugin of your network (EFA: aws-ofi-nccl); state --needs ibverbs to make this fail";
    IMG_005 "IMG-005" Warn, "two versions of one library are in the image",
        cause: "Which one a program gets depends on how it looks: by name (LD_LIBRARY_PATH, then ld.so's cache) or by a path of its own (Python's packages). Ranks, tests and libraries then run different code. When an older one hides a newer one, this fails.",
        suspect: "pip's nvidia-* packages beside those of the distribution or the base image; LD_LIBRARY_PATH",
        remedy: "keep one: remove the other package, or its folder from LD_LIBRARY_PATH and /etc/ld.so.conf.d";
    IMG_006 "IMG-006" Fail, "a stub stands where the driver's library should",
        cause: "The CUDA toolkit brings a libcuda.so for linking that fails every call (error 34). Found before the one that the host mounts, it makes every program say that there is no GPU.",
        suspect: "LD_LIBRARY_PATH or /etc/ld.so.conf.d with a stubs folder, or a link libcuda.so.1 made while building",
        remedy: "take the stubs folder out of LD_LIBRARY_PATH and ld.so.conf.d (use it with -L only), remove the link, run ldconfig";
    IMG_007 "IMG-007" Warn, "the image carries a library of the driver",
        cause: "libcuda and NVML must be those of the host's driver, which the container toolkit mounts. One in the image is found instead where the paths differ, and fails with `driver/library version mismatch`.",
        suspect: "a package of the driver in the image (libnvidia-compute, cuda-drivers)",
        remedy: "remove the driver's packages from the image; install cuda-toolkit or cuda-libraries, not cuda";
    IMG_008 "IMG-008" Fail, "CUDA is too new for the driver",
        cause: "A driver runs toolkits up to its own major version. Newer ones end with `CUDA driver version is insufficient`, unless the forward compatibility libraries are loaded, which NVIDIA supports on data-centre GPUs with certain drivers only.",
        suspect: "an image that is newer than the cluster",
        remedy: "take an image with an older CUDA, or update the driver; with cuda-compat in the image, put its folder first in LD_LIBRARY_PATH and try it on one node";
    IMG_009 "IMG-009" Warn, "CUDA is newer than the driver's own",
        cause: "Within a major version older drivers run newer toolkits, without what is new in them, and they compile no PTX of the newer toolkit: programs that ship PTX only, or compile at run time, fail.",
        suspect: "an image that is newer than the cluster",
        remedy: "test what compiles at run time (torch.compile, Triton, CUDA graphs) on one node, or align the versions";
    IMG_010 "IMG-010" Fail, "the image has no code for the GPU",
        cause: "A library was built without machine code for this GPU, or by a toolkit that does not know it: kernels fail with `no kernel image is available`, or the driver compiles PTX at each start.",
        suspect: "a library that is older than the GPU, or a build with a short list of architectures",
        remedy: "install a version that supports the GPU; cuobjdump --list-elf FILE shows what is in it";
    IMG_011 "IMG-011" Warn, "parts of different CUDA versions",
        cause: "Libraries of two major versions of CUDA are there. Each may work by itself; memory grows, and symbols of one may be taken for the other's.",
        suspect: "pip packages for another CUDA (-cu11, -cu12, -cu13) than the base image's",
        remedy: "install all of one major version";
    IMG_012 "IMG-012" Fail, "NCCL does not take the net plugin",
        cause: "The plugin offers no version of the interface that this NCCL knows. NCCL then uses its own InfiniBand or sockets, and says so only in its log.",
        suspect: "a plugin that is older or newer than NCCL",
        remedy: "install the plugin's version for this NCCL, or remove the plugin";
    IMG_013 "IMG-013" Fail, "the image's environment switches a fast path off",
        cause: "A variable that helps while looking for a fault takes a transport or the GPUs away from every job that runs from the image.",
        suspect: "ENV in the image's recipe, or nccl.conf",
        remedy: "remove it from the image; set it in the job that needs it";
    IMG_014 "IMG-014" Warn, "the image's environment is for one machine",
        cause: "The variable fixes what NCCL, UCX or CUDA find out by themselves, and is right on the machine on which it was found, if there.",
        suspect: "ENV in the image's recipe, or nccl.conf",
        remedy: "move it to the job script or the cluster's own /etc/nccl.conf";
    IMG_015 "IMG-015" Warn, "UCX lacks a transport",
        cause: "UCX was built without CUDA or without verbs: MPI then crashes on GPU buffers, or moves everything through TCP.",
        suspect: "a distribution's UCX, or a build on a machine without the headers",
        remedy: "install the module (libucx0 with CUDA, HPC-X), or build with --with-cuda --with-verbs; ucx_info -d lists transports";
    IMG_016 "IMG-016" Fail, "the image refuses the driver",
        cause: "The container toolkit reads NVIDIA_REQUIRE_CUDA and does not start the container on this driver.",
        suspect: "a base image that is newer than the cluster",
        remedy: "take an older base image, or update the driver; NVIDIA_DISABLE_REQUIRE=1 lets it start where it is known to work";
    IMG_017 "IMG-017" Info, "how the container must be started",
        cause: "RDMA pins memory and opens /dev/infiniband, NCCL and MPI need room in /dev/shm, CUDA needs the driver. None of it comes with the image: whoever starts it must give it.",
        suspect: "nobody: a condition of the start",
        remedy: "give these to docker or podman; in Slurm, set LimitMEMLOCK=infinity for slurmd; in Kubernetes, mount an emptyDir of medium Memory at /dev/shm and ask for the RDMA resource";
    IMG_018 "IMG-018" Warn, "the kernel is too old for dma-buf",
        cause: "GPUDirect RDMA by dma-buf needs Linux 5.12; before, the module nvidia_peermem must be loaded on the host, or NCCL copies through host memory.",
        suspect: "the host's distribution",
        remedy: "load nvidia_peermem on every host (ENV-007 tells when it is not)";
    IMG_019 "IMG-019" Fail, "the loader does not find a library that is there",
        cause: "It lies in a folder that ld.so.conf names, and the loader's cache does not know it: programs that ask for it by name do not start, or do without it.",
        suspect: "files that were copied into the image without ldconfig",
        remedy: "run ldconfig in the image's recipe after the last library was copied";
    LEM_001 "LEM-001" Warn, "it failed before",
        cause: "The node, or a GPU in it, failed an earlier check by the baseline's list, and passes today. Parts that were reset and put back fail again far more often than others; a run of weeks finds them.",
        suspect: "a part that fails now and then",
        remedy: "keep it as a spare (state [nodes] needed: it is placed last), run `gonogo check --tier soak` on it, or replace the part; delete its [[offender]] from the baseline once it is repaired";
    PLN_001 "PLN-001" Warn, "a waiver of the plan is of no use",
        cause: "A [[waive]] entry is past its date or names a code that does not exist. It waives nothing.",
        suspect: "the plan",
        remedy: "remove the entry, or renew it with a reason that still holds";
    MOR_001 "MOR-001" Fail, "a GPU failed, and the run with it",
        cause: "The driver or a program told of an error of the GPU's hardware at the time when the run ended; what the other ranks report followed from it.",
        suspect: "the GPU, its memory, its NVLinks",
        remedy: "leave the node out and start again from the last checkpoint; then on the node: `gonogo check --tier node`, nvidia-smi -q -d ECC,ROW_REMAPPER, reset or replace the GPU";
    MOR_002 "MOR-002" Fail, "a node failed, and the run with it",
        cause: "The scheduler, or the node's own kernel, told that the node itself failed when the run ended.",
        suspect: "the node's memory, CPU, power, or kernel",
        remedy: "leave the node out and start again from the last checkpoint; read its management controller's event log (ipmitool sel list) before it comes back";
    MOR_003 "MOR-003" Fail, "a link went down, and the run with it",
        cause: "The node's kernel or NCCL saw the link of an adapter go down just before connections over it broke.",
        suspect: "cable, transceiver, switch port",
        remedy: "leave the node out and start again from the last checkpoint; then look at the port on both ends (ethtool, mlxlink, ibdiagnet) and run `gonogo check` with the node in";
    MOR_004 "MOR-004" Fail, "the storage failed, and the run with it",
        cause: "A write, a read or a mount failed: full, over quota, read-only, or an error of the device or its server. Another start ends in the same way until that is mended.",
        suspect: "space, quota, the file server, the node's mount",
        remedy: "make room or mend the mount (df -h, lfs quota), see that the last checkpoint is whole, then start again behind `gonogo gate --watch`, which tells before it is full";
    MOR_005 "MOR-005" Fail, "a node ran out of memory, and the kernel ended a process",
        cause: "The kernel or the job's group ended a process to get memory back. On one node of many, something else holds memory there; on all, the job wants more than it was given.",
        suspect: "data loaders, checkpoints that are staged in memory, what an earlier job left in /dev/shm",
        remedy: "look at what is used on the idle node (free -g, ls /dev/shm); ask for more memory (--mem), fewer loader workers, or stage checkpoints elsewhere ([checkpoint] staging_copies tells a check)";
    MOR_006 "MOR-006" Fail, "a GPU ran out of memory",
        cause: "The program asked for more memory than the GPU has left. It does so again with the same settings, unless another process held some of it.",
        suspect: "the batch or the sequence length, fragmentation, a process that an earlier job left",
        remedy: "see that the GPU is empty (nvidia-smi), then lower the micro-batch, or set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True";
    MOR_007 "MOR-007" Fail, "the program failed",
        cause: "An exception, a crash or a fault in a kernel came first, and nothing on the machines explains it: another start from the same place ends in the same way.",
        suspect: "the program, its data, its configuration",
        remedy: "mend what the line tells; where the same step fails on other nodes, skip the batch; an illegal memory access that moves from node to node is the program's, one that stays is the GPU's";
    MOR_008 "MOR-008" Info, "the run was ended from outside",
        cause: "A time limit, a preemption, a cancellation: nothing failed.",
        suspect: "nobody",
        remedy: "start again from the last checkpoint; see that the last save came before the end (`gonogo watch --once`)";
    MOR_009 "MOR-009" Hold, "a process was killed, and nothing says by whom",
        cause: "It got SIGKILL before any other rank complained. The kernel does that when memory is short, and so do schedulers and people; the kernel's log of that node tells which.",
        suspect: "memory of the node, or somebody's hand",
        remedy: "read the node's kernel log (dmesg -T | grep -i -E 'oom|killed') and give it here with --log; leave the node out until that is known";
    MOR_010 "MOR-010" Hold, "a rank did not come to a collective",
        cause: "All others waited for it. It was dead, stopped, slow beyond patience, or somewhere else in the program; which of these, its own log and stack tell.",
        suspect: "the node that it ran on, or a branch of the program that only it took",
        remedy: "leave the node out and start again from the last checkpoint; `gonogo check --tier node` on it, and its own log and `py-spy dump` next time it hangs";
    MOR_011 "MOR-011" Fail, "ranks disagree in a collective",
        cause: "They came to one place of one group with different operations or sizes, or wait for each other in different groups. No hardware does that: a branch, a batch of another shape, or groups that are used in another order.",
        suspect: "the program, or an environment that differs between nodes (NCCL_ALGO, NCCL_PROTO, versions)",
        remedy: "look at what decides the operation and the size on the ranks named; run once with TORCH_DISTRIBUTED_DEBUG=DETAIL; nodes need not be left out";
    MOR_012 "MOR-012" Fail, "the run could not begin as it was set up",
        cause: "A limit, an interface, a version or a placement of ranks does not fit. It fails again in the same way until that is changed.",
        suspect: "limits of the launcher or container, NCCL_SOCKET_IFNAME, the image, CUDA_VISIBLE_DEVICES; between GPUs ACS and the IOMMU",
        remedy: "mend what the line tells; `gonogo check` before the run finds these (ENV, IMG and NCL findings)";
    MOR_013 "MOR-013" Hold, "all ranks came to a collective, and it does not move",
        cause: "Everybody called the same, and it neither ends nor fails: data does not flow. A path between two nodes, an adapter or a GPU holds it up; the program does not.",
        suspect: "the network, a firewall on some ports, peer-to-peer access between GPUs (ACS, IOMMU)",
        remedy: "run `gonogo check` on the same nodes: its pairs and rails find the path; inside one node, look at findings of family NCL";
    MOR_014 "MOR-014" Hold, "no cause found",
        cause: "What was given says that the run ended, and not why. That is no word for or against any node.",
        suspect: "a log that is missing: of the kernel, of a rank, of the launcher",
        remedy: "give more: --log for every rank's and the kernel's log, --recorder for PyTorch's flight recorder (TORCH_NCCL_TRACE_BUFFER_SIZE=2000, TORCH_NCCL_DUMP_ON_TIMEOUT=1), --before for the check; and run `gonogo check` before the next start";
    MOR_015 "MOR-015" Hold, "the others lost a node that said nothing",
        cause: "Connections to it closed or were not to be made, and no line of its own tells of an error: its process or the node went at once (power, a kill, a lost network).",
        suspect: "the node, or its way into the network",
        remedy: "leave the node out and start again from the last checkpoint; see whether it is up and since when (uptime, ipmitool sel list), and read its kernel log";
    MOR_016 "MOR-016" Warn, "a source could not be read, or not whole",
        cause: "What it would have told is missing from this answer.",
        suspect: "rights, a path, a rank that was ended while it wrote",
        remedy: "give the file again where it can be read";
    MOR_017 "MOR-017" Warn, "something changed between the check before and the one after",
        cause: "The same was looked at before the run and after it, and is not the same.",
        suspect: "what changed",
        remedy: "compare the two: gonogo diff BEFORE AFTER";
    MOR_018 "MOR-018" Info, "another fault was seen, and is not held to be the cause",
        cause: "It came too early or too late, or something else explains the end better.",
        suspect: "the part that it names, for another time",
        remedy: "look at it before the next run: gonogo check --tier node";
    MOR_019 "MOR-019" Info, "what followed",
        cause: "Errors that ranks report because others are gone, and what a launcher does to end the rest: consequences, however many and however loud.",
        suspect: "nobody",
        remedy: "nothing: read the finding above";
    MOR_020 "MOR-020" Hold, "a peer could not be reached",
        cause: "Connections to it were refused or never answered, and none had ever stood: a firewall, an interface that the peers cannot route to (a bridge of a container), a name that leads elsewhere, or a process there that never started.",
        suspect: "NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME, a firewall between the nodes, the master's address and port",
        remedy: "run `gonogo check` on the same nodes, which connects each pair both ways; set NCCL_SOCKET_IFNAME to the interface that all share, and open all ports between the nodes";
}
