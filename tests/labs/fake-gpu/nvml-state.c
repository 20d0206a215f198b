// NVML of what moves: clocks, power, links, the fabric, processes.

// Clocks: graphics, SM, memory, video.
R nvmlDeviceGetClockInfo(void *d, int t, unsigned *v) {
    HANDLE;
    const struct machine *m = machine();
    if (t == 2) {
        *v = m->memory_mhz;
        return 0;
    }
    double b = busy(G), h = heat(G, now());
    int hot = fault_of("hot", G, -1) != 0;
    *v = hot ? m->sm_mhz / 2 : b > 0.05 ? m->sm_mhz * (1 - (1 - m->sustained) * h) : m->sm_idle;
    *v = *v / 15 * 15;
    return 0;
}
R nvmlDeviceGetMaxClockInfo(void *d, int t, unsigned *v) {
    TOLD;
    *v = t == 2 ? machine()->memory_mhz : machine()->sm_mhz;
    return 0;
}
R nvmlDeviceGetApplicationsClock(void *d, int t, unsigned *v) {
    TOLD;
    *v = t == 2 ? machine()->memory_mhz : machine()->sm_mhz;
    return 0;
}
R nvmlDeviceGetCurrentClocksThrottleReasons(void *d, unsigned long long *v) {
    HANDLE;
    // 1 idle, 4 power cap, 0x40 hardware thermal slowdown.
    *v = fault_of("hot", G, -1)                             ? 0x40
         : machine()->bare                                  ? 0
         : busy(G) <= 0.05                                  ? 1
         : heat(G, now()) > 0.6 && machine()->sustained < 1 ? 4
                                                            : 0;
    return 0;
}
R nvmlDeviceGetCurrentClocksEventReasons(void *d, unsigned long long *v) { return nvmlDeviceGetCurrentClocksThrottleReasons(d, v); }
R nvmlDeviceGetTemperature(void *d, int t, unsigned *v) {
    HANDLE;
    *v = machine()->bare ? 45 : fault_of("hot", G, -1) ? 89 : 31 + G % 4 + (unsigned)(30 * heat(G, now()));
    return 0;
}
R nvmlDeviceGetTemperatureThreshold(void *d, int t, unsigned *v) {
    TOLD;
    *v = t == 0 ? 92 : t == 1 ? 89 : t == 2 ? 95 : 87;
    return t > 3 ? UNSUPPORTED : 0;
}
static double watts(int g) {
    const struct machine *m = machine();
    double h = heat(g, now()), b = busy(g);
    return m->idle_w + (b > 0.05) * (m->limit_w - m->idle_w) * (0.45 + 0.53 * h);
}
R nvmlDeviceGetPowerUsage(void *d, unsigned *mw) {
    TOLD;
    *mw = watts(G) * 1000;
    return 0;
}
R nvmlDeviceGetEnforcedPowerLimit(void *d, unsigned *mw) {
    TOLD;
    *mw = machine()->limit_w * 1000;
    return 0;
}
R nvmlDeviceGetPowerManagementLimit(void *d, unsigned *mw) { return nvmlDeviceGetEnforcedPowerLimit(d, mw); }
R nvmlDeviceGetPowerManagementDefaultLimit(void *d, unsigned *mw) { return nvmlDeviceGetEnforcedPowerLimit(d, mw); }
// An idle link saves power at a low generation.
R nvmlDeviceGetCurrPcieLinkGeneration(void *d, unsigned *v) {
    TOLD;
    *v = busy(G) > 0.02 || machine()->arm ? machine()->generation : 1;
    return 0;
}
R nvmlDeviceGetMaxPcieLinkGeneration(void *d, unsigned *v) {
    TOLD;
    *v = machine()->generation;
    return 0;
}
R nvmlDeviceGetCurrPcieLinkWidth(void *d, unsigned *v) {
    TOLD;
    *v = machine()->lanes / pcie_share(G);
    return 0;
}
R nvmlDeviceGetMaxPcieLinkWidth(void *d, unsigned *v) {
    TOLD;
    *v = machine()->lanes;
    return 0;
}
R nvmlDeviceGetPcieReplayCounter(void *d, unsigned *v) {
    TOLD;
    *v = pcie_share(G) > 1 ? 4211 : 0;
    return 0;
}

R nvmlDeviceGetNvLinkState(void *d, unsigned l, unsigned *on) {
    TOLD;
    if (l >= (unsigned)machine()->links) return INVALID;
    *on = l < (unsigned)links_up(G);
    return 0;
}
R nvmlDeviceGetNvLinkVersion(void *d, unsigned l, unsigned *v) {
    TOLD;
    if (l >= (unsigned)machine()->links) return INVALID;
    *v = machine()->link_version;
    return 0;
}
R nvmlDeviceGetNvLinkErrorCounter(void *d, unsigned l, int which, unsigned long long *n) {
    TOLD;
    if (l >= (unsigned)links_up(G)) return INVALID;
    *n = 0;
    return 0;
}
R nvmlDeviceGetNvLinkRemotePciInfo_v2(void *d, unsigned l, struct pci *p) {
    TOLD;
    if (l >= (unsigned)machine()->links) return INVALID;
    int other = G ^ 1;
    *p = (struct pci){"", 0, machine()->pairs ? bus_of(other) : 5 + l % 4, 0, machine()->pairs ? 0x20b510de : 0x22a310de, 0};
    snprintf(p->legacy, sizeof p->legacy, "%04X:%02X:00.0", p->domain, p->bus);
    snprintf(p->bus_id, sizeof p->bus_id, "%08X:%02X:00.0", p->domain, p->bus);
    return 0;
}
// nvmlGpuFabricInfo_v2_t, and v3 with a summary at the end.
struct fabric {
    unsigned version;
    unsigned char cluster[16];
    int status;
    unsigned clique;
    unsigned char state;
    unsigned health;
    unsigned char summary;
};
R nvmlDeviceGetGpuFabricInfoV(void *d, struct fabric *f) {
    TOLD;
    unsigned v = f->version >> 24, size = f->version & 0xffffff;
    if (!(v == 2 && size == 36 || v == 3 && size == 40)) return 25; // argument version mismatch
    memset(f->cluster, 0, 16);
    f->status = 0;
    f->clique = 0;
    f->state = 0;
    f->health = 0;
    if (machine()->fabric) {
        f->state = fault_of("no-fabric", G, -1) ? 2 : 3;
        // Of each field: 2 is that it is not so.
        f->health = fault_of("nvlink-down", G, 1) ? 1 | 2 << 2 | 2 << 4 | 2 << 6 | 1 << 8 : 2 | 2 << 2 | 2 << 4 | 2 << 6 | 1 << 8;
        if (machine()->fabric == 2) {
            const char *s = getenv("FAKE_CLIQUE");
            f->clique = s ? atoi(s) : 32766;
            for (int i = 0; i < 16; i++) f->cluster[i] = mix(0x6762323030ull + i) >> 56;
        }
    }
    if (v == 3) f->summary = f->state == 3 ? (f->health & 3) == 1 ? 3 : 1 : 0;
    return 0;
}
R nvmlDeviceGetMigMode(void *d, unsigned *now, unsigned *next) {
    TOLD;
    *now = *next = fault_of("mig", G, 1) != 0;
    return 0;
}
R nvmlDeviceGetComputeMode(void *d, unsigned *m) {
    TOLD;
    *m = fault_of("exclusive", G, -1) ? 3 : 0;
    return 0;
}
R nvmlDeviceGetPersistenceMode(void *d, unsigned *on) {
    TOLD;
    *on = 1;
    return 0;
}
struct process {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
};
R nvmlDeviceGetComputeRunningProcesses_v3(void *d, unsigned *n, struct process *p) {
    TOLD;
    unsigned is = fault_of("filled", G, 1) != 0, room = *n;
    *n = is;
    if (room < is) return TOO_SMALL;
    if (is) *p = (struct process){1, used_of(G), ~0u, ~0u};
    return 0;
}
R nvmlDeviceGetUtilizationRates(void *d, unsigned *v) {
    TOLD;
    v[0] = busy(G) > 0.05 ? 100 : 0;
    v[1] = v[0] / 2;
    return 0;
}
