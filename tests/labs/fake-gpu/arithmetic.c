// What little mathematics is needed, so that the library needs no other: one of mathematics would have to be linked by name. Good to six
// digits where nothing else is said.

static uint32_t bits_of(float f) {
    uint32_t b;
    memcpy(&b, &f, 4);
    return b;
}
static float float_of(uint32_t b) {
    float f;
    memcpy(&f, &b, 4);
    return f;
}
static double root(double x) {
    if (!(x > 0)) return 0;
    uint64_t b;
    memcpy(&b, &x, 8);
    b = (b >> 1) + (511ull << 52); // half the exponent
    double y;
    memcpy(&y, &b, 8);
    for (int i = 0; i < 4; i++) y = 0.5 * (y + x / y);
    return y;
}
static double logarithm(double x) {
    int e = 0;
    while (x > 1.5) {
        x /= 2;
        e++;
    }
    while (x < 0.75) {
        x *= 2;
        e--;
    }
    double z = (x - 1) / (x + 1), z2 = z * z;
    return e * 0.6931471805599453 + 2 * z * (1 + z2 * (1 / 3.0 + z2 * (1 / 5.0 + z2 * (1 / 7.0 + z2 / 9))));
}
// Of turns, between 0 and 1.
static double cosine(double turns) {
    double x = turns > 0.5 ? 1 - turns : turns, sign = 1;
    if (x > 0.25) {
        x = 0.5 - x;
        sign = -1;
    }
    double t = x * 6.283185307179586, t2 = t * t;
    return sign * (1 - t2 / 2 * (1 - t2 / 12 * (1 - t2 / 30 * (1 - t2 / 56 * (1 - t2 / 90)))));
}
// e to the -x, to a per cent.
static double fading(double x) {
    double y = 1 / (1 + x / 256);
    for (int i = 0; i < 8; i++) y *= y;
    return y;
}
static float nearest(float x) { return x > -4194304 && x < 4194304 ? (x + 12582912.0f) - 12582912.0f : x; }
