// The driver's devices and contexts: what CUDA_VISIBLE_DEVICES leaves of the machine, and what it tells of each.

// GPUs that CUDA shows: those that CUDA_VISIBLE_DEVICES names, up to the first that is none. Two that are the same make it none at all.
struct visible {
    int gpu, mig;
};
static int visible(struct visible *out) {
    const char *s = getenv("CUDA_VISIBLE_DEVICES");
    int n = 0;
    for (int g = 0; !s && g < gpus(); g++)
        if (!fault_of("lost", g, 99) && !fault_of("mig", g, 1)) out[n++] = (struct visible){g};
    while (s && *s && n < 32) {
        char name[64], uuid[48], *end;
        size_t l = strcspn(s, ",");
        snprintf(name, sizeof name, "%.*s", (int)l, s);
        s += l + (s[l] == ',');
        int found = -1, found_n = 0, mig = !strncmp(name, "MIG-", 4);
        long index = strtol(name, &end, 10);
        // Indices count what is there.
        if (end != name && !*end) {
            for (int g = 0, i = 0; g < gpus(); g++)
                if (!fault_of("lost", g, 99) && i++ == index && !fault_of("mig", g, 1)) {
                    found = g;
                    found_n = 1;
                }
        } else
            for (int g = 0; g < gpus(); g++) {
                uuid_text(g, uuid, sizeof uuid);
                int is = mig ? fault_of("mig", g, 1) && !strncmp(name + 4, uuid + 4, strlen(name + 4))
                             : !strncmp(name, "GPU-", 4) && !strncmp(name, uuid, strlen(name)) && !fault_of("mig", g, 1);
                if (is && strlen(name) > 4 && !fault_of("lost", g, 99)) {
                    found = g;
                    found_n++;
                }
            }
        if (found_n != 1) break;
        for (int i = 0; i < n; i++)
            if (out[i].gpu == found) return 0;
        out[n++] = (struct visible){found, mig};
    }
    return n;
}
static struct visible shown_gpus[32];
static int shown_n = -1;
static int shown(void) {
    if (shown_n < 0) shown_n = visible(shown_gpus);
    return shown_n;
}
static int gpu_of(int d) { return shown_gpus[d].gpu; }
#define DEVICE(d)                                                                                                                          \
    do {                                                                                                                                   \
        if ((d) < 0 || (d) >= shown()) return 101;                                                                                         \
    } while (0)
static int retained[32];

R cuInit(unsigned f) {
    static int done;
    if (f) return 1;
    if (!shown()) return 100;
    if (machine()->fabric && fault("no-fabric")) return 802;
    if (!done++) takes(machine()->init * gpus());
    return 0;
}
R cuDriverGetVersion(int *v) {
    *v = machine()->cuda;
    return 0;
}
static const struct {
    int code;
    const char *name, *text;
} ERRORS[] = {{1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"}, {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"}, {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {214, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"}, {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"}, {704, "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", "peer access is already enabled"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"}, {802, "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"}};
R cuGetErrorName(int c, const char **s) {
    *s = 0;
    for (unsigned i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == c) *s = ERRORS[i].name;
    return *s ? 0 : 1;
}
R cuGetErrorString(int c, const char **s) {
    *s = 0;
    for (unsigned i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == c) *s = ERRORS[i].text;
    return *s ? 0 : 1;
}
R cuDeviceGetCount(int *n) {
    *n = shown();
    return 0;
}
R cuDeviceGet(int *d, int i) {
    DEVICE(i);
    *d = i;
    return 0;
}
R cuDeviceGetName(char *s, int n, int d) {
    DEVICE(d);
    name_of(gpu_of(d), s, n);
    return 0;
}
R cuDeviceGetUuid(unsigned char *u, int d) {
    DEVICE(d);
    uuid_of(gpu_of(d), u);
    return 0;
}
R cuDeviceGetUuid_v2(unsigned char *u, int d) { return cuDeviceGetUuid(u, d); }
R cuDeviceGetPCIBusId(char *s, int n, int d) {
    DEVICE(d);
    snprintf(s, n, "%04X:%02X:00.0", domain_of(gpu_of(d)), bus_of(gpu_of(d)));
    return 0;
}
R cuDeviceGetByPCIBusId(int *d, const char *s) {
    unsigned domain = 0, bus, slot;
    if (sscanf(s, "%x:%x:%x", &domain, &bus, &slot) != 3) {
        domain = 0;
        if (sscanf(s, "%x:%x", &bus, &slot) != 2) return 1;
    }
    for (int i = 0; i < shown(); i++)
        if ((unsigned)domain_of(gpu_of(i)) == domain && (unsigned)bus_of(gpu_of(i)) == bus && !slot) {
            *d = i;
            return 0;
        }
    return 101;
}
R cuDeviceTotalMem_v2(size_t *n, int d) {
    DEVICE(d);
    *n = machine()->memory / (shown_gpus[d].mig ? 7 : 1);
    return 0;
}
R cuDeviceGetAttribute(int *v, int a, int d) {
    DEVICE(d);
    const struct machine *m = machine();
    int g = gpu_of(d);
    switch (a) {
    case 13: *v = m->sm_mhz * 1000; break;
    case 16: *v = m->sms; break;
    case 20: *v = fault_of("exclusive", g, -1) ? 3 : 0; break;
    case 33: *v = bus_of(g); break;
    case 34: *v = 0; break;
    case 36: *v = m->memory_mhz * 1000; break;
    case 37: *v = m->major == 8 || m->major == 9 ? 5120 : 8192; break;
    case 38: *v = m->major == 8 ? 40 << 20 : m->major == 9 ? 50 << 20 : 126 << 20; break;
    case 50: *v = domain_of(g); break;
    case 75: *v = m->major; break;
    case 76: *v = m->minor; break;
    case 116:
    case 124: *v = !m->bare; break;
    default: *v = 0;
    }
    return 0;
}
R cuDeviceCanAccessPeer(int *v, int a, int b) {
    DEVICE(a);
    DEVICE(b);
    *v = a != b;
    return 0;
}
R cuDeviceGetP2PAttribute(int *v, int which, int a, int b) {
    DEVICE(a);
    DEVICE(b);
    int x = gpu_of(a), y = gpu_of(b), linked = machine()->links && (!machine()->pairs || x / 2 == y / 2);
    *v = which == 1 ? !linked : which == 3 ? linked || machine()->bare : 1;
    return 0;
}
R cuDevicePrimaryCtxRetain(void **c, int d) {
    DEVICE(d);
    int g = gpu_of(d);
    if (fault_of("exclusive", g, -1)) return 46;
    if (fault_of("hbm-ecc", g, 1) && fault_of("hbm-ecc", g, 1)->share > 0) return 214;
    if (!retained[g]++) {
        takes_alone(machine()->alone);
        takes(machine()->context - machine()->alone);
    }
    *c = (void *)(long)(g + 1);
    return 0;
}
R cuDevicePrimaryCtxRelease_v2(int d) {
    DEVICE(d);
    if (retained[gpu_of(d)] > 0 && !--retained[gpu_of(d)]) takes(machine()->end);
    return 0;
}
R cuCtxSetCurrent(void *c) {
    current = (long)c - 1;
    return 0;
}
R cuCtxGetCurrent(void **c) {
    *c = (void *)(long)(current + 1);
    return 0;
}
R cuCtxGetDevice(int *d) {
    for (*d = 0; *d < shown(); ++*d)
        if (gpu_of(*d) == current) return 0;
    return 201;
}
R cuCtxSynchronize(void) {
    ALIVE;
    wait_for_gpu(current);
    return 0;
}
R cuCtxEnablePeerAccess(void *c, unsigned f) {
    static uint32_t on[32];
    int g = (long)c - 1;
    if (on[current & 31] >> g & 1) return 704;
    on[current & 31] |= 1u << g;
    return 0;
}
