/* A spill drifts down a river: c_t + v c_x = D c_xx - k c on [0, 10] km, upwind and explicit. It writes its state by
 * ADIOS2 after every ten minutes and knows nothing of alearn: which engine carries it stands in the XML file.
 *
 *     spill XML DISPERSION(m2/s) DECAY(1/h) */
#include <adios2_c.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CELLS = 500, STEPS = 36 };

static void need(int good, const char *what) {
    if (!good) {
        fprintf(stderr, "spill: ADIOS2 cannot %s\n", what);
        exit(1);
    }
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: spill XML DISPERSION DECAY\n");
        return 2;
    }
    double dispersion = atof(argv[2]), decay = atof(argv[3]) / 3600, speed = 0.3, dx = 10000.0 / CELLS;
    double c[CELLS], next[CELLS], mass, peak, hours, dt = 0.4 / (speed / dx + 2 * dispersion / (dx * dx) + decay);
    size_t shape = CELLS, start = 0;
    int substeps = (int)ceil(600 / dt), step, i, n;

    adios2_adios *adios = adios2_init_config_serial(argv[1]);
    need(adios != NULL, "read its XML file");
    adios2_io *io = adios2_declare_io(adios, "river");
    adios2_variable *vc = adios2_define_variable(io, "c", adios2_type_double, 1, &shape, &start, &shape, adios2_constant_dims_true);
    adios2_variable *vm = adios2_define_variable(io, "mass", adios2_type_double, 0, NULL, NULL, NULL, adios2_constant_dims_true);
    adios2_variable *vp = adios2_define_variable(io, "peak", adios2_type_double, 0, NULL, NULL, NULL, adios2_constant_dims_true);
    adios2_variable *vt = adios2_define_variable(io, "time", adios2_type_double, 0, NULL, NULL, NULL, adios2_constant_dims_true);
    adios2_define_variable_attribute(io, "units", adios2_type_string, "mg/l", "c", "/");
    adios2_define_variable_attribute(io, "units", adios2_type_string, "g/m2", "mass", "/");
    adios2_define_variable_attribute(io, "units", adios2_type_string, "mg/l", "peak", "/");
    adios2_engine *engine = adios2_open(io, "river.bp", adios2_mode_write);
    need(engine != NULL, "open river.bp");

    dt = 600.0 / substeps;
    for (i = 0; i < CELLS; i++) c[i] = 8 * exp(-pow((i * dx - 1500) / 250, 2));
    for (step = 1; step <= STEPS; step++) {
        for (n = 0; n < substeps; n++) {
            for (i = 0; i < CELLS; i++) {
                double left = i ? c[i - 1] : 0, right = c[i < CELLS - 1 ? i + 1 : i];
                next[i] = c[i] + dt * (dispersion * (left - 2 * c[i] + right) / (dx * dx) - speed * (c[i] - left) / dx - decay * c[i]);
            }
            memcpy(c, next, sizeof c);
        }
        for (mass = peak = 0, i = 0; i < CELLS; i++) {
            mass += c[i] * dx;
            peak = fmax(peak, c[i]);
        }
        hours = step / 6.0;
        adios2_step_status status;
        need(!adios2_begin_step(engine, adios2_step_mode_append, -1, &status), "begin a step");
        adios2_put(engine, vt, &hours, adios2_mode_deferred);
        adios2_put(engine, vc, c, adios2_mode_deferred);
        adios2_put(engine, vm, &mass, adios2_mode_deferred);
        adios2_put(engine, vp, &peak, adios2_mode_deferred);
        need(!adios2_end_step(engine), "end a step");
    }
    need(!adios2_close(engine), "close river.bp");
    adios2_finalize(adios);
    printf("after %d steps: peak %.3f mg/l, %.0f g/m2 left\n", STEPS, peak, mass);
    return 0;
}
