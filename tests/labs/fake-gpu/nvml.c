// NVML: what nvidia-smi would tell of the machine. A handle is the GPU's number and one. Clocks, power and the PCIe link follow what this
// process does; another process sees an idle GPU.

enum { OK, UNINITIALIZED, INVALID, UNSUPPORTED, NOT_FOUND = 6, TOO_SMALL = 7, NO_DRIVER = 9, GPU_LOST = 15, MISMATCH = 18 };
#define G ((int)(long)d - 1)
static int opened;
static void slow(int g) {
    if (fault_of("nvml-hang", g, -1))
        for (;;) pause();
    if (fault("nvml-slow")) takes(fault("nvml-slow")->number * 1000);
}
// Of a handle; and for what the small machine does not tell.
#define HANDLE                                                                                                                             \
    do {                                                                                                                                   \
        if (!opened) return UNINITIALIZED;                                                                                                 \
        if (G < 0 || G >= gpus()) return INVALID;                                                                                          \
        slow(G);                                                                                                                           \
        if (fault_of("lost", G, 99)) return GPU_LOST;                                                                                      \
    } while (0)
#define TOLD                                                                                                                               \
    do {                                                                                                                                   \
        HANDLE;                                                                                                                            \
        if (machine()->bare) return UNSUPPORTED;                                                                                           \
    } while (0)
// 0 idle, 1 at work.
static double busy(int g) {
    Time t = now();
    return load[g].busy_until + 20000000 > t || load[g].queued + 60000000 > t ? 1 : heat(g, t);
}

R nvmlInit_v2(void) {
    if (fault("nvml-version")) return MISMATCH;
    if (!gpus()) return NO_DRIVER;
    slow(-1);
    if (fault("nvml-hang") && fault("nvml-hang")->gpu < 0)
        for (;;) pause();
    takes(20 * !machine()->bare + machine()->nvml * gpus());
    opened++;
    return 0;
}
R nvmlInitWithFlags(unsigned f) { return nvmlInit_v2(); }
R nvmlShutdown(void) {
    if (!opened) return UNINITIALIZED;
    opened--;
    return 0;
}
const char *nvmlErrorString(int c) {
    return c == 0    ? "Success"
           : c == 1  ? "Uninitialized"
           : c == 2  ? "Invalid Argument"
           : c == 3  ? "Not Supported"
           : c == 6  ? "Not Found"
           : c == 7  ? "Insufficient Size"
           : c == 9  ? "Driver Not Loaded"
           : c == 15 ? "GPU is lost"
           : c == 18 ? "Driver/library version mismatch"
                     : "Unknown Error";
}
R nvmlSystemGetDriverVersion(char *s, unsigned n) {
    snprintf(s, n, "%s", machine()->driver);
    return 0;
}
R nvmlSystemGetNVMLVersion(char *s, unsigned n) {
    snprintf(s, n, "%d.%s", machine()->cuda / 1000, machine()->driver);
    return 0;
}
R nvmlSystemGetCudaDriverVersion_v2(int *v) {
    *v = machine()->cuda;
    return 0;
}
R nvmlSystemGetCudaDriverVersion(int *v) {
    *v = machine()->cuda;
    return 0;
}
R nvmlDeviceGetCount_v2(unsigned *n) {
    if (!opened) return UNINITIALIZED;
    slow(-1);
    *n = gpus();
    return 0;
}
R nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) {
    if (!opened) return UNINITIALIZED;
    if (i >= (unsigned)gpus()) return INVALID;
    slow(i);
    *d = (void *)(long)(i + 1);
    return fault_of("lost", i, 99) ? GPU_LOST : 0;
}
R nvmlDeviceGetHandleByUUID(const char *u, void **d) {
    char own[48];
    for (int g = 0; g < gpus(); g++) {
        uuid_text(g, own, sizeof own);
        if (!strcmp(own, u)) return nvmlDeviceGetHandleByIndex_v2(g, d);
    }
    return NOT_FOUND;
}
R nvmlDeviceGetHandleByPciBusId_v2(const char *s, void **d) {
    unsigned domain, bus;
    if (sscanf(s, "%x:%x", &domain, &bus) != 2) return INVALID;
    for (int g = 0; g < gpus(); g++)
        if ((unsigned)domain_of(g) == domain && (unsigned)bus_of(g) == bus) return nvmlDeviceGetHandleByIndex_v2(g, d);
    return NOT_FOUND;
}
R nvmlDeviceGetIndex(void *d, unsigned *i) {
    HANDLE;
    *i = G;
    return 0;
}
R nvmlDeviceGetMinorNumber(void *d, unsigned *i) {
    HANDLE;
    *i = G;
    return 0;
}
R nvmlDeviceGetName(void *d, char *s, unsigned n) {
    HANDLE;
    name_of(G, s, n);
    return 0;
}
R nvmlDeviceGetUUID(void *d, char *s, unsigned n) {
    HANDLE;
    uuid_text(G, s, n);
    return 0;
}
R nvmlDeviceGetSerial(void *d, char *s, unsigned n) {
    TOLD;
    snprintf(s, n, "165302400%04d", 1000 + G * 7);
    return 0;
}
R nvmlDeviceGetVbiosVersion(void *d, char *s, unsigned n) {
    TOLD;
    snprintf(s, n, "%s", machine()->major == 8 ? "92.00.A0.00.05" : machine()->major == 9 ? "96.00.99.00.01" : "97.00.82.00.18");
    return 0;
}
R nvmlDeviceGetCudaComputeCapability(void *d, int *a, int *b) {
    TOLD;
    *a = machine()->major;
    *b = machine()->minor;
    return 0;
}
R nvmlDeviceGetNumaNodeId(void *d, unsigned *n) {
    TOLD;
    *n = numa_of(G);
    return 0;
}

struct pci {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char bus_id[32];
};
R nvmlDeviceGetPciInfo_v3(void *d, struct pci *p) {
    TOLD;
    unsigned id = machine()->major == 8 ? 0x20b510de : machine()->major == 9 ? 0x233010de : 0x294110de;
    *p = (struct pci){"", domain_of(G), bus_of(G), 0, id, 0x16c110de};
    snprintf(p->legacy, sizeof p->legacy, "%04X:%02X:00.0", p->domain, p->bus);
    snprintf(p->bus_id, sizeof p->bus_id, "%08X:%02X:00.0", p->domain, p->bus);
    return 0;
}
struct memory {
    unsigned long long total, free, used;
};
struct memory_v2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};
static uint64_t used_of(int g) { return allocated[g] + (fault_of("filled", g, 1) ? machine()->memory / 80 * 79 - machine()->taken : 0); }
R nvmlDeviceGetMemoryInfo(void *d, struct memory *m) {
    TOLD;
    m->total = machine()->memory;
    m->used = used_of(G) + machine()->taken;
    m->free = m->total - m->used;
    return 0;
}
R nvmlDeviceGetMemoryInfo_v2(void *d, struct memory_v2 *m) {
    TOLD;
    m->total = machine()->memory;
    m->reserved = machine()->taken;
    m->used = used_of(G);
    m->free = m->total - m->used - m->reserved;
    return 0;
}
R nvmlDeviceGetEccMode(void *d, unsigned *now, unsigned *next) {
    TOLD;
    *now = *next = 1;
    return 0;
}
static int broken(int g) { return fault_of("hbm-ecc", g, 1) != 0; }
// error: 0 corrected, 1 uncorrected. counter: 0 since the driver was loaded.
R nvmlDeviceGetTotalEccErrors(void *d, int error, int counter, unsigned long long *n) {
    TOLD;
    *n = broken(G) ? (error ? 3 : 17) : 0;
    return 0;
}
R nvmlDeviceGetRetiredPages(void *d, int cause, unsigned *n, unsigned long long *at) {
    TOLD;
    return UNSUPPORTED;
} // rows are remapped since Ampere
R nvmlDeviceGetRetiredPages_v2(void *d, int cause, unsigned *n, unsigned long long *at, unsigned long long *when) {
    TOLD;
    return UNSUPPORTED;
}
R nvmlDeviceGetRetiredPagesPendingStatus(void *d, unsigned *on) {
    TOLD;
    return UNSUPPORTED;
}
R nvmlDeviceGetRemappedRows(void *d, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) {
    TOLD;
    *corrected = *failed = 0;
    *uncorrected = *pending = broken(G);
    return 0;
}
struct field {
    unsigned id, scope;
    long long at, took;
    unsigned type;
    int result;
    union {
        double d;
        unsigned u;
        unsigned long long ull;
    } value;
};
R nvmlDeviceGetFieldValues(void *d, int n, struct field *f) {
    TOLD;
    for (int i = 0; i < n; i++) {
        f[i].at = now() / 1000;
        f[i].took = 40;
        f[i].type = 1;
        f[i].result = 0;
        f[i].value.ull = 0;
        // NVML_FI_DEV_REMAPPED_COR, _UNC, _PENDING, _FAILURE; NVML_FI_DEV_NVLINK_LINK_COUNT.
        if (f[i].id == 142 || f[i].id == 145) f[i].value.u = 0;
        else if (f[i].id == 143 || f[i].id == 144) f[i].value.u = broken(G);
        else if (f[i].id == 91) f[i].value.u = machine()->links;
        else f[i].result = UNSUPPORTED;
    }
    return 0;
}
