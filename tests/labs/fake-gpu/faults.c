// FAKE_FAULT: a list, with commas, of `kind`, `kind:GPU` and `kind:GPU:SHARE`. GPUs count as NVML counts them.

struct fault {
    char kind[24];
    int gpu;
    double number, share;
};
static struct fault faults[32];
static int faults_known = -1;

static void read_faults(void) {
    if (faults_known >= 0) return;
    const char *s = getenv("FAKE_FAULT");
    int n = 0;
    while (s && *s && n < 32) {
        struct fault f = {.gpu = -1};
        size_t kind = strcspn(s, ":,");
        snprintf(f.kind, sizeof f.kind, "%.*s", (int)kind, s);
        s += kind;
        if (*s == ':') {
            char *end;
            f.number = strtod(s + 1, &end);
            f.gpu = (int)f.number;
            s = end;
        }
        if (*s == ':') {
            char *end;
            f.share = strtod(s + 1, &end);
            s = end;
        }
        s += strcspn(s, ",");
        if (*s) s++;
        faults[n++] = f;
    }
    faults_known = n;
}
static const struct fault *fault(const char *kind) {
    read_faults();
    for (int i = 0; i < faults_known; i++)
        if (!strcmp(faults[i].kind, kind)) return faults + i;
    return 0;
}
// Of one GPU; without a number it is that of `otherwise`, or of all where that is -1.
static const struct fault *fault_of(const char *kind, int gpu, int otherwise) {
    read_faults();
    for (int i = 0; i < faults_known; i++) {
        int of = faults[i].gpu < 0 ? otherwise : faults[i].gpu;
        if (!strcmp(faults[i].kind, kind) && (of < 0 || of == gpu)) return faults + i;
    }
    return 0;
}
static double share_of(const char *kind, int gpu, double otherwise) {
    const struct fault *f = fault_of(kind, gpu, 1);
    return !f ? 1 : f->share > 0 ? f->share : otherwise;
}
