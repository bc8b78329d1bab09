#!/bin/sh
# A legacy code: writes a profile every few iterations and a summary nobody asked for. Usage: solver.sh CONDUCTIVITY
awk -v kappa="$1" 'BEGIN {
    n = 16
    for (i = 0; i <= n; i++) u[i] = (i == n / 2)
    for (step = 0; step <= 200; step++) {
        if (step % 10 == 0) {
            file = sprintf("profile_%d.dat", step / 10)
            printf "# time %g\n", step * 0.01 > file
            for (i = 0; i <= n; i++) printf "%g %g\n", i / n, u[i] > file
            close(file)
        }
        for (i = 1; i < n; i++) v[i] = u[i] + kappa * (u[i - 1] - 2 * u[i] + u[i + 1])
        for (i = 1; i < n; i++) u[i] = v[i]
    }
}' && echo "normal termination"
