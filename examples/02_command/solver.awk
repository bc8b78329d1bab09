# Predators and prey (Lotka-Volterra), integrated by explicit midpoint steps. A time step is a line of JSON.
# awk -v hunger=0.6 -v growth=1.0 -f solver.awk
BEGIN {
    x = 1.0; y = 0.5; dt = 0.01
    for (step = 0; step <= 2000; step++) {
        if (step % 50 == 0) {
            printf "{\"t\": %.2f, \"prey\": %.9g, \"predators\": %.9g}\n", step * dt, x, y
            fflush()
        }
        xm = x + dt / 2 * (growth * x - x * y); ym = y + dt / 2 * (hunger * x * y - 0.5 * y)
        x += dt * (growth * xm - xm * ym); y += dt * (hunger * xm * ym - 0.5 * ym)
    }
}
