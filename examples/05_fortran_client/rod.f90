! A rod with a heated spot: u_t = (conductivity u_x)_x + power at the spot, both ends at 0. Explicit steps.
program rod
    use alearn_client
    implicit none
    integer, parameter :: cells = 100, steps = 40, each = 200, wp = kind(1d0)
    real(wp), parameter :: dx = 1._wp/cells, dt = 2e-5_wp
    type(alearn_run) :: run
    real(wp) :: conductivity, spot, u(0:cells), source(0:cells)
    integer :: i, inner

    call alearn_connect(run, steps_total=steps)
    conductivity = alearn_parameter(run, "conductivity", 1._wp)
    spot = alearn_parameter(run, "spot", 0.3_wp)
    u = 0
    source = [(100*exp(-((i*dx - spot)/0.05_wp)**2), i=0, cells)]
    do while (run%step < steps .and. .not. alearn_stopped(run))
        do inner = 1, each
            u(1:cells - 1) = u(1:cells - 1) + dt*(conductivity*(u(0:cells - 2) - 2*u(1:cells - 1) + u(2:cells))/dx**2 &
                + source(1:cells - 1))
        end do
        if (alearn_put(run, (run%step + 1)*each*dt, "hottest [K]", maxval(u), "mean [K]", sum(u)*dx, "u [K]", u) /= alearn_ok) exit
    end do
    print "(a, f0.3, a, i0, a)", "hottest ", maxval(u), " K after ", run%step, " steps"
    if (alearn_close(run) /= alearn_ok) stop 1
end program rod
