// The machines that the stand-in can be, by FAKE_MACHINE: what their drivers tell, and how fast they do what.
//
// Rates are what such machines achieve, not datasheets, in units of 1e9 a second:
// - bf16 and fp8: stas00/ml-engineering compute/accelerator (A100 SXM 271, H100 SXM 794.5 and 1403, GB200 1822 and 3616); sustained 0.74 of the
//   datasheet's 989 on H100 (gpu-fryer, MAMF). tf32, f32 and f64 are estimates: 0.75 to 0.85 of the datasheet.
// - memory: 0.92 (read) to 0.88 (triad) of the datasheet, which is what BabelStream reaches on A100 and H100; GB200 alike: an estimate.
// - host: H200 55.4 up and 55.1 down of PCIe Gen5 (ml-engineering, nvbandwidth), A100 26 of Gen4, Grace 359 up, 377 down and 175 each way of
//   both (half a GB300's). GPU to GPU: 396 through NVSwitch (H200), 250 over three bridges of 100 each (A100 PCIe; an
//   estimate), 20 over PCIe through a host bridge (nvbandwidth on such machines; an estimate).
// - NCCL's bus bandwidth: 478 for all-reduce with NVLS at 8 x H100 (Azure AI-benchmarking-guide), 365 all-gather; 16 for pairs over PCIe (an
//   estimate); 880 in a GB200's domain (NVCRE validation-results). Latency of a small all-reduce about 12 us (nccl-tests on H100).
// Times of starting are estimates from logs of HGX nodes with persistence mode on, unless said otherwise.

enum { F64, F32, BF16, F16, E4M3, TF32, TYPES };

struct machine {
    const char *id, *gpu, *driver;
    int cuda, gpus, bare; // bare: NVML has no more than a name, as an old one has
    int major, minor, sms;
    uint64_t memory, taken;          // bytes; of those, the driver's own
    double flops[TYPES], sustained;  // sustained: share of the burst once it is hot
    double read, write, copy, triad; // as STREAM counts: copy twice its size, triad three times
    double up, down, both;           // both: how much longer a copy takes while one goes the other way
    double peer, peer_pcie;
    int pairs;               // pairs: NVLink only from 2i to 2i + 1
    int links, link_version; // NVLinks of a GPU; NVML_NVLINK_VERSION_*
    double all_reduce, all_gather, all_to_all, net, latency;
    int nvls, channels; // GB/s of the bus; net: of an adapter; us
    int generation, lanes, sm_mhz, sm_idle, memory_mhz;
    double idle_w, limit_w;
    int fabric; // 0 none, 1 NVSwitch, 2 of many nodes
    int arm;
    // Milliseconds: cuInit and NVML for each GPU, a context (of which so much with the driver to itself), its end, a module, cuBLASLt's handle
    // and the first use of each of its kernels, a communicator of one node, the first collective.
    int init, nvml, context, alone, end, module, blas, kernel, communicator, connect;
};

static const struct machine MACHINES[] = {
    {.id = "small",
        .gpu = "NVIDIA Fake 1",
        .driver = "570.86.15",
        .cuda = 12080,
        .gpus = 2,
        .bare = 1,
        .major = 9,
        .minor = 0,
        .sms = 4,
        .memory = 2ul << 30,
        .flops = {50e3, 50e3, 400e3, 400e3, 800e3, 200e3},
        .sustained = 1,
        .read = 900,
        .write = 900,
        .copy = 900,
        .triad = 900,
        .up = 25,
        .down = 25,
        .both = 1.1,
        .peer = 100,
        .peer_pcie = 100,
        .all_reduce = 100,
        .all_gather = 100,
        .all_to_all = 100,
        .net = 10,
        .latency = 20,
        .channels = 2,
        .generation = 4,
        .lanes = 16,
        .sm_mhz = 1500,
        .sm_idle = 1500,
        .memory_mhz = 1500,
        .idle_w = 30,
        .limit_w = 300},
    {.id = "h100",
        .gpu = "NVIDIA H100 80GB HBM3",
        .driver = "570.86.15",
        .cuda = 12080,
        .gpus = 1,
        .major = 9,
        .minor = 0,
        .sms = 132,
        .memory = 85520809984ul,
        .taken = 608ul << 20,
        .flops = {58e3, 52e3, 794.5e3, 790e3, 1403e3, 395e3},
        .sustained = 0.922,
        .read = 3090,
        .write = 3110,
        .copy = 2990,
        .triad = 3020,
        .up = 55.4,
        .down = 55.1,
        .both = 1.1,
        .peer = 396,
        .peer_pcie = 40,
        .links = 18,
        .link_version = 6,
        .all_reduce = 490,
        .all_gather = 365,
        .all_to_all = 345,
        .net = 48,
        .latency = 12,
        .nvls = 1,
        .channels = 24,
        .generation = 5,
        .lanes = 16,
        .sm_mhz = 1980,
        .sm_idle = 345,
        .memory_mhz = 2619,
        .idle_w = 70,
        .limit_w = 700,
        .fabric = 1,
        .init = 120,
        .nvml = 12,
        .context = 180,
        .alone = 70,
        .end = 80,
        .module = 40,
        .blas = 150,
        .kernel = 15,
        .communicator = 1100,
        .connect = 300},
    {.id = "a100-pcie-pairs",
        .gpu = "NVIDIA A100 80GB PCIe",
        .driver = "570.86.15",
        .cuda = 12080,
        .gpus = 4,
        .major = 8,
        .minor = 0,
        .sms = 108,
        .memory = 85899345920ul,
        .taken = 596ul << 20,
        .flops = {17.5e3, 17.8e3, 250e3, 248e3, 0, 125e3},
        .sustained = 0.9,
        .read = 1780,
        .write = 1790,
        .copy = 1730,
        .triad = 1740,
        .up = 26.2,
        .down = 26.4,
        .both = 1.12,
        .peer = 250,
        .peer_pcie = 20,
        .pairs = 1,
        .links = 12,
        .link_version = 4,
        .all_reduce = 24.5,
        .all_gather = 24,
        .all_to_all = 14,
        .net = 24,
        .latency = 21,
        .channels = 4,
        .generation = 4,
        .lanes = 16,
        .sm_mhz = 1410,
        .sm_idle = 210,
        .memory_mhz = 1512,
        .idle_w = 45,
        .limit_w = 300,
        .init = 70,
        .nvml = 12,
        .context = 200,
        .alone = 70,
        .end = 80,
        .module = 50,
        .blas = 170,
        .kernel = 15,
        .communicator = 800,
        .connect = 300},
    {.id = "gb200",
        .gpu = "NVIDIA GB200",
        .driver = "580.65.06",
        .cuda = 13000,
        .gpus = 4,
        .major = 10,
        .minor = 0,
        .sms = 152,
        .memory = 198674743296ul,
        .taken = 980ul << 20,
        .flops = {36e3, 68e3, 1822e3, 1815e3, 3616e3, 870e3},
        .sustained = 0.93,
        .read = 7250,
        .write = 7200,
        .copy = 6950,
        .triad = 7000,
        .up = 359,
        .down = 377,
        .both = 2.05,
        .peer = 780,
        .peer_pcie = 100,
        .links = 18,
        .link_version = 7,
        .all_reduce = 900,
        .all_gather = 690,
        .all_to_all = 660,
        .net = 48,
        .latency = 13,
        .nvls = 1,
        .channels = 24,
        .generation = 5,
        .lanes = 16,
        .sm_mhz = 2062,
        .sm_idle = 120,
        .memory_mhz = 3996,
        .idle_w = 170,
        .limit_w = 1200,
        .fabric = 2,
        .arm = 1,
        .init = 110,
        .nvml = 15,
        .context = 230,
        .alone = 80,
        .end = 90,
        .module = 40,
        .blas = 160,
        .kernel = 15,
        .communicator = 1200,
        .connect = 300},
};

static struct machine hgx;
static const struct machine *machine(void) {
    static const struct machine *m;
    if (m) return m;
    const char *id = getenv("FAKE_MACHINE");
    if (!id || !*id) return m = MACHINES;
    // Eight of them: cuInit opens every GPU, and a communicator has more to connect.
    hgx = MACHINES[1];
    hgx.id = "hgx-h100";
    hgx.gpus = 8;
    hgx.init = 55;
    hgx.communicator = 1700;
    if (!strcmp(id, hgx.id)) return m = &hgx;
    for (unsigned i = 0; i < sizeof MACHINES / sizeof *MACHINES; i++)
        if (!strcmp(id, MACHINES[i].id)) return m = MACHINES + i;
    fprintf(stderr, "fake-gpu: FAKE_MACHINE=%s is none of small, h100, hgx-h100, a100-pcie-pairs, gb200\n", id);
    abort();
}

// GPUs that are in the machine. The small one takes as many as are asked for.
static int gpus(void) {
    const char *s = getenv("FAKE_GPUS");
    int most = machine()->bare ? 32 : machine()->gpus, n = s ? atoi(s) : machine()->gpus;
    return n < 0 ? 0 : n > most ? most : n;
}
// That nothing was measured must be seen wherever a name is.
static void name_of(int g, char *to, size_t n) { snprintf(to, n, "%s%s", machine()->gpu, machine()->bare ? "" : " stand-in"); }
// Buses of the eight sockets of an HGX H100 from DGX H100's documentation; others by rule.
static int bus_of(int g) {
    static const int dgx[8] = {0x1b, 0x43, 0x52, 0x61, 0x9d, 0xc3, 0xd1, 0xdf};
    return machine()->bare ? 16 + g : machine()->arm ? 1 : dgx[g & 7];
}
static int domain_of(int g) { return machine()->arm ? (g < 2 ? 8 + g : 0x18 + g - 2) : 0; }
static int numa_of(int g) { return gpus() > 1 && g >= (machine()->gpus + 1) / 2; }
static void uuid_of(int g, unsigned char u[16]) {
    if (machine()->bare) {
        memset(u, g + 1, 16);
        return;
    }
    uint64_t x = 0x7374616e642d696eull + g; // the same in every process
    const char *node = getenv("FAKE_NODE");
    for (; node && *node; node++) x = x * 31 + *node;
    for (int i = 0; i < 16; i++) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        u[i] = x >> 56;
    }
}
static void uuid_text(int g, char *to, size_t n) {
    unsigned char b[16];
    uuid_of(g, b);
    snprintf(to, n, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2], b[3], b[4], b[5], b[6],
        b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}
