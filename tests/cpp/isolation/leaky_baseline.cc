// Compiled for a high instruction set, under a name that does not say so.
int dot(const signed char* a, const signed char* b, int n) {
    int sum = 0;
    for (int i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
}
