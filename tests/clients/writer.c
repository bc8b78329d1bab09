/* What the tests of alearn.h run: writer MODE [ARGUMENTS]. */
#include "alearn.h"

#include <signal.h>

static void nap(double s) {
    struct timespec t;
    t.tv_sec = (time_t)s;
    t.tv_nsec = (long)(1e9 * (s - (double)t.tv_sec));
    nanosleep(&t, NULL);
}

static int stream(alearn_run *run, int steps, long size, double pause, const char *failure) {
    double number = alearn_parameter(run, "number", -1), *u = malloc((size_t)size * sizeof *u);
    int n, result = 0, computed = 0;
    run->steps_total = (uint64_t)steps;
    for (n = 0; n < steps && !alearn_stopped(run); n++) {
        int32_t index = n;
        alearn_field fields[] = {{"u", ALEARN_FLOAT64, NULL, 1, {0}, "m/s"}, {"n", ALEARN_INT32, NULL, 0, {0}, NULL}};
        long i;
        for (i = 0; i < size; i++) u[i] = 1000 * number + n;
        fields[0].data = u;
        fields[0].shape[0] = size;
        fields[1].data = &index;
        result = alearn_put(run, 0.5 * n, fields, 2);
        if (result) break;
        computed++;
        if (pause > 0) nap(pause);
    }
    free(u);
    printf("computed %d, result %d\n", computed, result);
    return alearn_close(run, failure) ? 1 : 0;
}

static int dtypes(alearn_run *run) {
    double f8[2][3] = {{0.1, -1e300, NAN}, {INFINITY, 0, -0.0}};
    float f4[1] = {1.5f};
    uint16_t f2[2] = {0x3c00, 0xc000};
    int64_t i8[1] = {INT64_MIN};
    int32_t i4[1] = {-7};
    int16_t i2[1] = {-8};
    int8_t i1[1] = {-9};
    uint64_t u8[1] = {UINT64_MAX};
    uint32_t u4[1] = {UINT32_MAX};
    uint16_t u2[1] = {65535};
    uint8_t u1[1] = {255}, b[2] = {1, 0};
    alearn_field fields[] = {
        {"f8", ALEARN_FLOAT64, NULL, 2, {2, 3}, "\"\\\n"}, {"f4", ALEARN_FLOAT32, NULL, 1, {1}, NULL}, {"f2", ALEARN_FLOAT16, NULL, 1, {2}, NULL},
        {"i8", ALEARN_INT64, NULL, 1, {1}, NULL}, {"i4", ALEARN_INT32, NULL, 1, {1}, NULL}, {"i2", ALEARN_INT16, NULL, 1, {1}, NULL},
        {"i1", ALEARN_INT8, NULL, 1, {1}, NULL}, {"u8", ALEARN_UINT64, NULL, 1, {1}, NULL}, {"u4", ALEARN_UINT32, NULL, 1, {1}, NULL},
        {"u2", ALEARN_UINT16, NULL, 1, {1}, NULL}, {"u1", ALEARN_UINT8, NULL, 1, {1}, NULL}, {"b", ALEARN_BOOL, NULL, 1, {2}, NULL},
        {"none", ALEARN_FLOAT64, NULL, 2, {0, 3}, NULL}, {"gr\xc3\xb6\xc3\x9f" "e", ALEARN_FLOAT64, NULL, 0, {0}, NULL}};
    const void *data[] = {f8, f4, f2, i8, i4, i2, i1, u8, u4, u2, u1, b, NULL, f8};
    int i;
    for (i = 0; i < 14; i++) fields[i].data = data[i];
    if (alearn_put(run, 0, fields, 14)) return 2;
    return alearn_close(run, NULL) ? 1 : 0;
}

static int half(alearn_run *run) { /* dies in the middle of its fourth step */
    static double u[50000];
    unsigned char head[40], start[16] = {3};
    struct iovec parts[2];
    alearn_field field = {"u", ALEARN_FLOAT64, NULL, 1, {50000}, NULL};
    int n;
    field.data = u;
    for (n = 0; n < 3; n++)
        if (alearn_put(run, n, &field, 1)) return 2;
    while (run->acknowledged < 3) alearn_stopped(run);
    alearn__frame(head, ALEARN__STEP, sizeof u, start, sizeof start);
    parts[0].iov_base = head;
    parts[0].iov_len = sizeof head;
    parts[1].iov_base = u;
    parts[1].iov_len = sizeof u / 2;
    if (alearn__give(run, parts, 1) != sizeof head || alearn__give(run, parts + 1, 1) < 0) return 2;
    raise(SIGKILL);
    return 2;
}

static int breaks(alearn_run *run) { /* its connection breaks now and then */
    alearn_field field = {"u", ALEARN_FLOAT64, NULL, 1, {1000}, NULL};
    double u[1000];
    int n, i;
    field.data = u;
    for (n = 0; n < 60; n++) {
        for (i = 0; i < 1000; i++) u[i] = n;
        if (alearn_put(run, n, &field, 1)) return 2;
        if (n % 20 == 10) shutdown(run->fd, SHUT_RDWR);
    }
    return alearn_close(run, NULL) ? 1 : 0;
}

static int changed(alearn_run *run) {
    double u[4] = {0};
    alearn_field field = {"u", ALEARN_FLOAT64, NULL, 1, {3}, NULL};
    field.data = u;
    if (alearn_put(run, 0, &field, 1)) return 2;
    field.shape[0] = 4;
    if (alearn_put(run, 1, &field, 1) != ALEARN_ERROR) return 2;
    return alearn_close(run, NULL) ? 1 : 0;
}

static int steered(alearn_run *run) { /* goes on until its time step is 0.5 */
    double dt = 0.1, label = 0;
    alearn_field field = {"dt", ALEARN_FLOAT64, NULL, 0, {0}, "s"};
    int n;
    field.data = &dt;
    for (n = 0; n < 100000 && label < 3; n++) {
        dt = alearn_steered(run, "dt", dt);
        if (dt > 0.2 && dt < 0.3) alearn_steered(run, "label", 0);
        if (alearn_steered(run, "unheard of", -1) >= 0) return 2;
        if (dt > 0.4) label++;
        if (alearn_put(run, n, &field, 1)) return 2;
        nap(0.002);
    }
    return alearn_close(run, NULL) ? 1 : 0;
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    alearn_run *run = alearn_connect();
    int i;
    if (!strcmp(mode, "stream")) return stream(run, atoi(argv[2]), atol(argv[3]), atof(argv[4]), argc > 5 ? argv[5] : NULL);
    if (!strcmp(mode, "dtypes")) return dtypes(run);
    if (!strcmp(mode, "half")) return half(run);
    if (!strcmp(mode, "breaks")) return breaks(run);
    if (!strcmp(mode, "changed")) return changed(run);
    if (!strcmp(mode, "steered")) return steered(run);
    for (i = 2; i < argc; i++) printf("%.17g\n", alearn_parameter(run, argv[i], -1)); /* mode "parameters" */
    return alearn_close(run, NULL) ? 1 : 0;
}
