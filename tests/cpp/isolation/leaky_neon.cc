// Compiled for more than its name says, with a static initialiser and an inline function that the linker merges.
int one();

struct AtLoad {
    AtLoad() : value(one()) {}
    int value;
} at_load;

inline __attribute__((noinline)) int dot(const signed char* a, const signed char* b, int n) {
    int sum = 0;
    for (int i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
}

int use(const signed char* a) {
    return dot(a, a + 1, at_load.value);
}
