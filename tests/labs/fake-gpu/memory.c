// Memory of GPUs as descriptions: an allocation is a range of addresses with a list of what lies where. 80 GB cost nothing then, and a
// kernel is an operation on descriptions. Bytes are made where the host reads them.
//
// What lies somewhere is a rule from which each word follows, or bytes as they are. Two ranges are equal where rule and place are;
// where rules differ and the range is small, words are compared, and where it is large it counts as different.

enum { CONST, PATTERN, NORMAL, PRODUCT, RANKS, RAW };
struct raw {
    int refs;
    size_t n;
    unsigned char bytes[];
};
// CONST: p = word. PATTERN: seed, flip. NORMAL: seed, type. PRODUCT: hash. RANKS: seed, first rank, ranks that are added.
struct seg {
    uint64_t at, n;
    int kind;
    uint64_t from, p[3];
    struct raw *raw;
}; // `from`: bytes into the rule's own sequence
struct list {
    struct seg *v;
    int n, cap;
};
#define SMALL (1u << 18)

static struct raw *raw_new(const void *bytes, size_t n) {
    struct raw *r = malloc(sizeof *r + n);
    r->refs = 0;
    r->n = n;
    if (bytes) memcpy(r->bytes, bytes, n);
    return r;
}
static void let_go(struct seg *s) {
    if (s->kind == RAW && !--s->raw->refs) free(s->raw);
}
static void clear(struct list *l) {
    for (int i = 0; i < l->n; i++) let_go(l->v + i);
    free(l->v);
    *l = (struct list){0};
}
static int continues(const struct seg *a, const struct seg *b) {
    if (a->kind != b->kind || a->at + a->n != b->at) return 0;
    if (a->kind == CONST) return a->p[0] == b->p[0];
    if (a->kind == RAW && a->raw != b->raw) return 0;
    return a->from + a->n == b->from && !memcmp(a->p, b->p, sizeof a->p);
}
static void push(struct list *l, struct seg s) {
    if (!s.n) return;
    if (l->n && continues(l->v + l->n - 1, &s)) {
        l->v[l->n - 1].n += s.n;
        return;
    }
    if (l->n == l->cap) l->v = realloc(l->v, (l->cap = l->cap * 2 + 4) * sizeof *l->v);
    if (s.kind == RAW) s.raw->refs++;
    l->v[l->n++] = s;
}
// Appends what `l` has from `at` on, moved to `to`.
static void slice(const struct list *l, uint64_t at, uint64_t n, struct list *out, uint64_t to) {
    for (int i = 0; i < l->n; i++) {
        struct seg s = l->v[i];
        uint64_t begin = s.at > at ? s.at : at, end = s.at + s.n < at + n ? s.at + s.n : at + n;
        if (begin >= end) continue;
        s.from += begin - s.at;
        s.at = begin - at + to;
        s.n = end - begin;
        push(out, s);
    }
}
// `what` begins at 0 and lies from `at` on afterwards.
static void put(struct list *l, uint64_t at, uint64_t n, const struct list *what, uint64_t whole) {
    struct list out = {0};
    slice(l, 0, at, &out, 0);
    slice(what, 0, n, &out, at);
    slice(l, at + n, whole > at + n ? whole - at - n : 0, &out, at + n);
    clear(l);
    *l = out;
}

static float element(uint64_t seed, uint64_t rank, uint64_t i) {
    uint64_t x = seed ^ (rank * 0x9E3779B97F4A7C15ull) ^ (i * 0xD1B54A32D192ED03ull);
    x ^= x >> 32;
    x *= 0xD6E8FEB86659FD93ull;
    return (float)((x >> 48) & 1023);
}
static uint16_t half_of(float f) {
    uint32_t b = bits_of(f), sign = b >> 16 & 0x8000;
    int e = (int)(b >> 23 & 255) - 112;
    b &= 0x7fffff;
    if (e <= 0) return sign | (uint16_t)nearest(float_of(bits_of(f) & 0x7fffffff) * 16777216.0f);
    return sign | (uint16_t)((e << 10 | b >> 13) + (b >> 12 & 1));
}
static uint8_t e4m3_of(float x) {
    uint8_t sign = x < 0 ? 0x80 : 0;
    float a = x < 0 ? -x : x;
    if (!(a < 448)) return sign | 0x7e;
    if (a < 0.015625f) return sign | (uint8_t)nearest(a * 512);
    int e = (int)(bits_of(a) >> 23) - 127;
    float m = nearest(a * float_of((130 - e) << 23));
    if (m == 16) {
        m = 8;
        e++;
    }
    return e > 8 ? sign | 0x7e : sign | (uint8_t)((e + 7) << 3) | (uint8_t)((int)m - 8);
}
static const int SIZES[TYPES] = {8, 4, 2, 2, 1, 4};
// One byte of a normal number, near to what the GPU computes: its logarithm and cosine differ in the last bits.
static uint8_t normal_byte(uint64_t seed, int type, uint64_t at) {
    uint64_t bits = mix(seed + at / SIZES[type]);
    float u = ((uint32_t)bits + 0.5f) * 2.3283064365386963e-10f, v = (uint32_t)(bits >> 32) * 2.3283064365386963e-10f;
    float x = root(-2 * logarithm(u)) * cosine(v);
    union {
        double d;
        float f;
        uint16_t h;
        uint8_t b[8];
    } out;
    if (type == F64) out.d = (double)x + (double)(mix(bits) >> 40) * 5.9604644775390625e-8 * 1e-7;
    else if (type == BF16) {
        uint32_t b = bits_of(x);
        out.h = (b + 0x7fff + (b >> 16 & 1)) >> 16;
    } else if (type == F16) out.h = half_of(x);
    else if (type == E4M3) out.b[0] = e4m3_of(x);
    else out.f = x;
    return out.b[at % SIZES[type]];
}
// The word at so many bytes of the rule's sequence, which are a multiple of four.
static uint32_t word_of(const struct seg *s, uint64_t at) {
    uint64_t i = at / 4;
    uint32_t w;
    switch (s->kind) {
    case CONST: return s->p[0];
    case PATTERN: return (uint32_t)mix(s->p[0] + i) ^ (uint32_t)s->p[1];
    case PRODUCT: return (uint32_t)mix(s->p[0] + i);
    case NORMAL:
        w = 0;
        for (int b = 0; b < 4; b++) w |= (uint32_t)normal_byte(s->p[0], s->p[1], at + b) << 8 * b;
        return w;
    case RANKS: {
        float sum = 0;
        for (uint64_t r = 0; r < s->p[2]; r++) sum += element(s->p[0], s->p[1] + r, i);
        return bits_of(sum);
    }
    default: memcpy(&w, s->raw->bytes + at, 4); return w;
    }
}
// By far the most bytes: a compiler that can makes this ten times faster where the processor multiplies 64-bit vectors.
#if defined(__x86_64__) && !defined(__clang__) && __GNUC__ >= 12
__attribute__((noinline, optimize("O3"), target_clones("arch=x86-64-v4", "default")))
#endif
static void pattern_words(uint32_t *to, uint64_t n, uint64_t seed, uint32_t flip) {
    for (uint64_t i = 0; i < n; i++) to[i] = (uint32_t)mix(seed + i) ^ flip;
}
static void bytes_of(const struct list *l, uint64_t at, uint64_t n, unsigned char *to) {
    for (int i = 0; i < l->n; i++) {
        const struct seg *s = l->v + i;
        uint64_t begin = s->at > at ? s->at : at, end = s->at + s->n < at + n ? s->at + s->n : at + n;
        if (begin >= end) continue;
        unsigned char *d = to + (begin - at);
        uint64_t from = s->from + begin - s->at, left = end - begin;
        if (s->kind == RAW) {
            memcpy(d, s->raw->bytes + from, left);
            continue;
        }
        if (s->kind == PATTERN && from % 4 == 0 && (uintptr_t)d % 4 == 0) {
            pattern_words((uint32_t *)d, left / 4, s->p[0] + from / 4, s->p[1]);
            d += left & ~3ull;
            from += left & ~3ull;
            left &= 3;
        }
        for (; left; from++, left--) {
            uint32_t w = word_of(s, from & ~3ull);
            if (from % 4 == 0 && left >= 4) {
                memcpy(d, &w, 4);
                d += 4;
                from += 3;
                left -= 3;
            } else *d++ = w >> 8 * (from % 4);
        }
    }
}
static uint64_t hash_of(const struct list *l, uint64_t at, uint64_t n) {
    struct list part = {0};
    slice(l, at, n, &part, 0);
    uint64_t h = n;
    for (int i = 0; i < part.n; i++) {
        const struct seg *s = part.v + i;
        h = mix(h ^ s->at) ^ s->kind;
        if (s->kind == RAW)
            for (uint64_t b = 0; b < s->n; b++) h = (h ^ s->raw->bytes[s->from + b]) * 0x100000001b3ull;
        else {
            if (s->kind != CONST) h = mix(h + s->from);
            for (int k = 0; k < 3; k++) h = mix(h + s->p[k]);
        }
    }
    clear(&part);
    return h;
}
static int same(const struct list *a, const struct list *b) {
    if (a->n != b->n) return 0;
    for (int i = 0; i < a->n; i++) {
        const struct seg *x = a->v + i, *y = b->v + i;
        if (x->at != y->at || x->n != y->n || x->kind != y->kind || memcmp(x->p, y->p, sizeof x->p)) return 0;
        if (x->kind != CONST && x->from != y->from || x->kind == RAW && x->raw != y->raw) return 0;
    }
    return 1;
}
// Words of `n` bytes from `at` on that are not those of `want`, and the first of them. `alike`: the share of words that are equal by chance.
static uint64_t differ(const struct list *l, uint64_t at, uint64_t n, struct seg want, double alike, uint64_t *first) {
    struct list part = {0};
    uint64_t wrong = 0, seen = 0;
    slice(l, at, n, &part, 0);
    for (int i = 0; i < part.n; i++) {
        const struct seg *s = part.v + i;
        uint64_t from = want.from + s->at, before = wrong;
        seen += s->n / 4;
        int rule = s->kind == want.kind && !memcmp(s->p, want.p, sizeof want.p) && (s->kind == CONST || s->from == from);
        if (rule) continue;
        if (s->kind != RAW && s->n > SMALL) wrong += (uint64_t)(s->n / 4 * (1 - alike));
        else
            for (uint64_t b = 0; b + 4 <= s->n; b += 4)
                if (word_of(s, s->from + b) != word_of(&want, from + b)) wrong++;
        if (wrong > before && first && s->at / 4 < *first) *first = s->at / 4;
    }
    clear(&part);
    return wrong + (n / 4 - seen);
}

// Allocations of this process.
struct allocation {
    uint64_t at, n;
    int gpu;
    struct list is;
    unsigned char *real;
    struct allocation *next;
};
static struct allocation *allocations;
static uint64_t allocated[32];

static struct allocation *find(uint64_t at, uint64_t n) {
    for (struct allocation *a = allocations; a; a = a->next)
        if (at >= a->at && at + n <= a->at + a->n) return a;
    return 0;
}
static struct allocation *must(uint64_t at, uint64_t n, const char *what) {
    struct allocation *a = find(at, n);
    // A GPU would fault (700); here the place in the caller is worth more.
    if (!a) {
        fprintf(stderr, "fake-gpu: %s of %zu bytes at %#llx, which is no memory of a GPU\n", what, (size_t)n, (unsigned long long)at);
        abort();
    }
    return a;
}
static void read_list(uint64_t at, uint64_t n, struct list *out) {
    struct allocation *a = must(at, n, "a read");
    if (a->real) push(out, (struct seg){0, n, RAW, .raw = raw_new(a->real + (at - a->at), n)});
    else slice(&a->is, at - a->at, n, out, 0);
}
static void write_list(uint64_t at, uint64_t n, const struct list *what) {
    struct allocation *a = must(at, n, "a write");
    if (a->real) bytes_of(what, 0, n, a->real + (at - a->at));
    else put(&a->is, at - a->at, n, what, a->n);
}
static void write_rule(uint64_t at, struct seg s) {
    struct list l = {0};
    push(&l, s);
    write_list(at, s.n, &l);
    clear(&l);
}
static void read_bytes(uint64_t at, uint64_t n, void *to) {
    struct list l = {0};
    read_list(at, n, &l);
    bytes_of(&l, 0, n, to);
    clear(&l);
}
static void write_bytes(uint64_t at, uint64_t n, const void *from) { write_rule(at, (struct seg){0, n, RAW, .raw = raw_new(from, n)}); }
