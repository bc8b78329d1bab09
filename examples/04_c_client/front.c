/* A population that grows and wanders: u_t = u_xx + growth u (u - threshold) (1 - u) on [0, 50], Nagumo's equation.
 * Where the threshold is above one half the front retreats, below it advances; explicit steps, closed ends. */
#include "alearn.h"

enum { CELLS = 200, STEPS = 40, EACH = 100 };

int main(void) {
    alearn_run *run = alearn_connect();
    double threshold = alearn_parameter(run, "threshold", 0.3), growth = alearn_parameter(run, "growth", 1.0);
    double u[CELLS], next[CELLS], front, dx = 50.0 / CELLS, dt = 0.01;
    alearn_field fields[] = {{"front", ALEARN_FLOAT64, &front, 0, {0}, "m"}, {"u", ALEARN_FLOAT64, u, 1, {CELLS}, ""}};
    int step, i, inner, status = ALEARN_OK;

    run->steps_total = STEPS;
    for (i = 0; i < CELLS; i++) u[i] = 1 / (1 + exp(i * dx - 10));
    for (step = 0; step < STEPS && status == ALEARN_OK && !alearn_stopped(run); step++) {
        for (inner = 0; inner < EACH; inner++) {
            for (i = 0; i < CELLS; i++) {
                double left = u[i ? i - 1 : 0], right = u[i < CELLS - 1 ? i + 1 : i];
                next[i] = u[i] + dt * ((left - 2 * u[i] + right) / (dx * dx) + growth * u[i] * (u[i] - threshold) * (1 - u[i]));
            }
            memcpy(u, next, sizeof u);
        }
        for (front = 0, i = 0; i < CELLS; i++) front += u[i] * dx;
        status = alearn_put(run, (step + 1) * EACH * dt, fields, 2);
    }
    printf("front at %.3f m after %d steps\n", front, step);
    return alearn_close(run, NULL) == ALEARN_OK ? 0 : 1;
}
