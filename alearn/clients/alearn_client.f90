! alearn_client: stream the time steps of a Fortran simulation to its learner. The same calls as alearn.h.
!
!     use alearn_client
!     type(alearn_run) :: run
!     call alearn_connect(run)
!     kappa = alearn_parameter(run, "kappa", 0.1d0)
!     do while (.not. alearn_stopped(run) .and. run%step < 200)
!         call advance(u, kappa)
!         if (alearn_put(run, time, "u [K]", u, "energy", energy) /= alearn_ok) exit
!     end do
!     if (alearn_close(run) /= alearn_ok) stop 1
!
! Values are real(4), real(8), integer(1), (2), (4), (8) or logical, numbers or arrays of any rank and any section. An
! array u(nx, ny) arrives in Python with the shape (ny, nx), as netCDF and HDF5 have it. A unit may follow a name in
! brackets. Outside a study the program runs by itself and sends nothing.
!
! Build: gcc -c alearn_fortran.c; gfortran alearn_client.f90 simulation.f90 alearn_fortran.o -lm   (gfortran >= 9)
! For encrypted streams (transport.kind=tcp): gcc -DALEARN_TLS -c alearn_fortran.c, and -lssl -lcrypto at the end.
module alearn_client
    use, intrinsic :: iso_c_binding, only: c_char, c_double, c_int, c_int64_t, c_null_char, c_null_ptr, c_ptr
    implicit none
    private
    public :: alearn_run, alearn_connect, alearn_parameter, alearn_put, alearn_stopped, alearn_steered, alearn_close
    public :: alearn_ok, alearn_stop, alearn_error

    integer, parameter :: alearn_ok = 0, alearn_stop = 1, alearn_error = -1

    type :: alearn_run
        !> Steps that the learner has; certain after the first alearn_put.
        integer(c_int64_t) :: acknowledged = 0
        !> Number of the next step, from 0. A code restarted from its own checkpoint sets it to at most `acknowledged`.
        integer(c_int64_t) :: step = 0
        type(c_ptr), private :: handle = c_null_ptr
    end type alearn_run

    interface
        function alearn_f_connect(steps_total, acknowledged) result(handle) bind(c)
            import :: c_int64_t, c_ptr
            integer(c_int64_t), value :: steps_total
            integer(c_int64_t), intent(out) :: acknowledged
            type(c_ptr) :: handle
        end function alearn_f_connect
        function alearn_f_parameter(handle, name, otherwise) result(number) bind(c)
            import :: c_char, c_double, c_ptr
            type(c_ptr), value :: handle
            character(kind=c_char), intent(in) :: name(*)
            real(c_double), value :: otherwise
            real(c_double) :: number
        end function alearn_f_parameter
        subroutine alearn_f_field(handle, name, field) bind(c)
            import :: c_char, c_ptr
            type(c_ptr), value :: handle
            character(kind=c_char), intent(in) :: name(*)
            type(*), intent(in) :: field(..)
        end subroutine alearn_f_field
        function alearn_f_put(handle, t, step, acknowledged) result(status) bind(c)
            import :: c_double, c_int, c_int64_t, c_ptr
            type(c_ptr), value :: handle
            real(c_double), value :: t
            integer(c_int64_t), intent(inout) :: step, acknowledged
            integer(c_int) :: status
        end function alearn_f_put
        function alearn_f_stopped(handle) result(stopped) bind(c)
            import :: c_int, c_ptr
            type(c_ptr), value :: handle
            integer(c_int) :: stopped
        end function alearn_f_stopped
        function alearn_f_steered(handle, name, otherwise) result(number) bind(c)
            import :: c_char, c_double, c_ptr
            type(c_ptr), value :: handle
            character(kind=c_char), intent(in) :: name(*)
            real(c_double), value :: otherwise
            real(c_double) :: number
        end function alearn_f_steered
        function alearn_f_close(handle, failure) result(status) bind(c)
            import :: c_char, c_int, c_ptr
            type(c_ptr), value :: handle
            character(kind=c_char), intent(in) :: failure(*)
            integer(c_int) :: status
        end function alearn_f_close
    end interface

contains

    !> Open this member's run from the environment that the launcher set.
    subroutine alearn_connect(run, steps_total)
        type(alearn_run), intent(out) :: run
        integer, intent(in), optional :: steps_total
        integer(c_int64_t) :: total
        total = 0
        if (present(steps_total)) total = steps_total
        run%handle = alearn_f_connect(total, run%acknowledged)
    end subroutine alearn_connect

    !> A parameter of this member; `otherwise` outside a study. A name that the study does not have is an error.
    function alearn_parameter(run, name, otherwise) result(number)
        type(alearn_run), intent(in) :: run
        character(*), intent(in) :: name
        real(c_double), intent(in) :: otherwise
        real(c_double) :: number
        number = alearn_f_parameter(run%handle, trim(name)//c_null_char, otherwise)
    end function alearn_parameter

    !> Send the next step; the values are copied. alearn_ok, alearn_stop (leave the loop) or alearn_error.
    function alearn_put(run, t, &
            n1, v1, n2, v2, n3, v3, n4, v4, n5, v5, n6, v6, n7, v7, n8, v8, n9, v9, n10, v10, n11, v11, n12, &
            v12) result(status)
        type(alearn_run), intent(inout) :: run
        real(c_double), intent(in) :: t
        character(*), intent(in) :: n1
        type(*), intent(in) :: v1(..)
        character(*), intent(in), optional :: &
            n2, n3, n4, n5, n6, n7, n8, n9, n10, n11, n12
        type(*), intent(in), optional :: &
            v2(..), v3(..), v4(..), v5(..), v6(..), v7(..), v8(..), v9(..), v10(..), v11(..), v12(..)
        integer :: status
        call alearn_f_field(run%handle, trim(n1)//c_null_char, v1)
        if (present(n2) .and. present(v2)) call alearn_f_field(run%handle, trim(n2)//c_null_char, v2)
        if (present(n3) .and. present(v3)) call alearn_f_field(run%handle, trim(n3)//c_null_char, v3)
        if (present(n4) .and. present(v4)) call alearn_f_field(run%handle, trim(n4)//c_null_char, v4)
        if (present(n5) .and. present(v5)) call alearn_f_field(run%handle, trim(n5)//c_null_char, v5)
        if (present(n6) .and. present(v6)) call alearn_f_field(run%handle, trim(n6)//c_null_char, v6)
        if (present(n7) .and. present(v7)) call alearn_f_field(run%handle, trim(n7)//c_null_char, v7)
        if (present(n8) .and. present(v8)) call alearn_f_field(run%handle, trim(n8)//c_null_char, v8)
        if (present(n9) .and. present(v9)) call alearn_f_field(run%handle, trim(n9)//c_null_char, v9)
        if (present(n10) .and. present(v10)) call alearn_f_field(run%handle, trim(n10)//c_null_char, v10)
        if (present(n11) .and. present(v11)) call alearn_f_field(run%handle, trim(n11)//c_null_char, v11)
        if (present(n12) .and. present(v12)) call alearn_f_field(run%handle, trim(n12)//c_null_char, v12)
        status = alearn_f_put(run%handle, t, run%step, run%acknowledged)
    end function alearn_put

    !> True once the learner has asked this member to stop.
    function alearn_stopped(run) result(stopped)
        type(alearn_run), intent(in) :: run
        logical :: stopped
        stopped = alearn_f_stopped(run%handle) /= 0
    end function alearn_stopped

    !> What a knob of the simulation is to be from now on: `otherwise`, its present value, unless somebody has steered it
    !> (alearn steer DIR MEMBER name=value). dt = alearn_steered(run, "dt", dt)
    function alearn_steered(run, name, otherwise) result(number)
        type(alearn_run), intent(in) :: run
        character(*), intent(in) :: name
        real(c_double), intent(in) :: otherwise
        real(c_double) :: number
        number = alearn_f_steered(run%handle, trim(name)//c_null_char, otherwise)
    end function alearn_steered

    !> Wait until every step is acknowledged and say the end; `failure` is one line on what went wrong, if anything did.
    function alearn_close(run, failure) result(status)
        type(alearn_run), intent(inout) :: run
        character(*), intent(in), optional :: failure
        integer :: status
        if (present(failure)) then
            status = alearn_f_close(run%handle, trim(failure)//c_null_char)
        else
            status = alearn_f_close(run%handle, c_null_char)
        end if
        run%handle = c_null_ptr
    end function alearn_close

end module alearn_client
