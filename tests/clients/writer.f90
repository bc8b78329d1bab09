! What the tests of alearn_client.f90 run: writer MODE
program writer
    use, intrinsic :: iso_fortran_env, only: int8, int16, int32, int64, real32, real64
    use alearn_client
    implicit none
    type(alearn_run) :: run
    character(16) :: mode
    real(real64) :: number
    integer :: status

    call get_command_argument(1, mode)
    call alearn_connect(run, steps_total=100)
    number = alearn_parameter(run, "number", -1d0)
    status = alearn_ok
    select case (mode)
    case ("stream")
        call stream(100)
    case ("endless")
        call stream(huge(1))
    case ("types")
        call types()
    case ("unsent")
        status = alearn_put(run, 0d0, "z", (1d0, 2d0))
        if (status /= alearn_error) stop 3
    end select
    if (mode == "steered") call steered()
    if (mode == "failing") then
        status = alearn_close(run, "the time step became too small   ")
    else
        status = alearn_close(run)
    end if
    if (status /= alearn_ok) stop 1

contains

    subroutine stream(steps)
        integer, intent(in) :: steps
        real(real64) :: u(3, 2)
        do while (.not. alearn_stopped(run) .and. run%step < steps)
            u = 1000*number + real(run%step, real64)
            status = alearn_put(run, 0.5d0*real(run%step, real64), "u", u)
            if (status /= alearn_ok) exit
        end do
        print "(a, i0, a, i0)", "step ", run%step, ", result ", status
    end subroutine stream

    subroutine steered() ! until its time step is 0.5
        real(real64) :: dt
        dt = 0.1d0
        do while (dt < 0.5d0)
            dt = alearn_steered(run, "dt", dt)
            status = alearn_put(run, real(run%step, real64), "dt", dt)
            if (status /= alearn_ok) exit
        end do
    end subroutine steered

    subroutine types()
        real(real64) :: a(2, 3, 4), big(4, 6)
        real(real32) :: b(5)
        integer(int8) :: i1
        integer(int16) :: i2(2)
        integer(int32) :: i4
        integer(int64) :: i8(1)
        logical :: l(3)
        logical(int8) :: l1
        integer :: i, j, k
        do k = 1, 4
            do j = 1, 3
                do i = 1, 2
                    a(i, j, k) = 100*i + 10*j + k
                end do
            end do
        end do
        do j = 1, 6
            do i = 1, 4
                big(i, j) = 10*i + j
            end do
        end do
        b = [1, 2, 3, 4, 5]
        i1 = -1_int8
        i2 = [-2_int16, 3_int16]
        i4 = -4
        i8 = [-huge(1_int64)]
        l = [.true., .false., .true.]
        l1 = .true._int8
        status = alearn_put(run, 1.5d0, "a [m/s]", a, "b", b, "i1", i1, "i2", i2, "i4", i4, "i8", i8, "l", l, "l1", l1, &
            "section", big(4:1:-2, 2:6:3), "energy", 0.25d0, "row", big(2, :))
    end subroutine types
end program writer
