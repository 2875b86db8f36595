dnl SPDX-License-Identifier: Apache-2.0
dnl
dnl ash_options.m4 - what `configure` can be told, and which compiler flags follow from it.

dnl ASH_APPEND_CFLAGS(flag...) - keep each flag the compiler accepts.
AC_DEFUN([ASH_APPEND_CFLAGS], [
  m4_foreach_w([ash_flag], [$1], [
    AC_MSG_CHECKING([whether $CC accepts ash_flag])
    ash_save="$CFLAGS"; CFLAGS="$CFLAGS -Werror ash_flag"
    AC_COMPILE_IFELSE([AC_LANG_PROGRAM()],
      [AC_MSG_RESULT([yes]); ASH_CFLAGS="$ASH_CFLAGS ash_flag"], [AC_MSG_RESULT([no])])
    CFLAGS="$ash_save"])
  AC_SUBST([ASH_CFLAGS])])

AC_DEFUN([ASH_ARG_DEBUG], [AC_ARG_ENABLE([debug],
  [AS_HELP_STRING([--enable-debug], [compile the expensive invariant checks])],, [enable_debug=no])
  AS_IF([test "x$enable_debug" = xyes], [AC_DEFINE([ASH_DEBUG], [1], [Expensive checks on])])])

AC_DEFUN([ASH_ARG_WERROR], [AC_ARG_ENABLE([werror],
  [AS_HELP_STRING([--enable-werror], [treat warnings as errors])],, [enable_werror=no])])

dnl Sanitizers look into malloc, so they get the C library's and not jemalloc.
AC_DEFUN([ASH_ARG_SANITIZE], [AC_ARG_ENABLE([sanitize],
  [AS_HELP_STRING([--enable-sanitize=LIST], [address, undefined, thread (comma separated); "yes" is address,undefined])],,
  [enable_sanitize=no])
  ash_san=
  AS_CASE([$enable_sanitize], [no], [], [yes], [ash_san=address,undefined], [ash_san=$enable_sanitize])
  AS_IF([test -n "$ash_san"], [
    AS_CASE([",$ash_san,"], [*,address,*thread*|*,thread,*address*], [AC_MSG_ERROR([address and thread do not mix])])
    ASH_CFLAGS="$ASH_CFLAGS -fsanitize=$ash_san -fno-sanitize-recover=all -fno-omit-frame-pointer"
    ASH_LDFLAGS="$ASH_LDFLAGS -fsanitize=$ash_san"
    AC_DEFINE([ASH_SANITIZING], [1], [Built with sanitizers])])
  AC_SUBST([ASH_LDFLAGS])
  AM_CONDITIONAL([SANITIZING], [test -n "$ash_san"])
  AM_CONDITIONAL([SANITIZING_THREAD], [case ",$ash_san," in *,thread,*) true;; *) false;; esac])])

AC_DEFUN([ASH_ARG_COVERAGE], [AC_ARG_ENABLE([coverage],
  [AS_HELP_STRING([--enable-coverage], [build for gcov])],, [enable_coverage=no])
  AS_IF([test "x$enable_coverage" = xyes], [
    ASH_CFLAGS="$ASH_CFLAGS --coverage -O0"; ASH_LDFLAGS="$ASH_LDFLAGS --coverage"])
  AC_SUBST([ASH_LDFLAGS])])

dnl initial-exec: a thread-local variable costs one instruction, not a call, also in the shared library.  The price: such a
dnl library needs static TLS space when it is loaded by dlopen(); ours is below 1 KiB.
AC_DEFUN([ASH_WARNINGS], [
  ASH_APPEND_CFLAGS([-std=gnu11 -fvisibility=hidden -fno-common -fno-strict-aliasing -ftls-model=initial-exec -Wall -Wextra
    -Wshadow -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition -Wpointer-arith
    -Wcast-align -Wwrite-strings -Wundef -Wformat=2 -Wimplicit-fallthrough -Wdouble-promotion
    -Wconversion -Wno-sign-conversion -Wduplicated-cond -Wlogical-op -Wthread-safety])
  AS_IF([test "x$enable_werror" = xyes], [ASH_CFLAGS="$ASH_CFLAGS -Werror"])])

dnl jemalloc by its own functions (mallocx), so it does not matter whose malloc() the program uses.
AC_DEFUN([ASH_ARG_JEMALLOC], [AC_ARG_WITH([jemalloc],
  [AS_HELP_STRING([--without-jemalloc], [use the C library's allocator])],, [with_jemalloc=yes])
  AS_IF([test -n "$ash_san"], [with_jemalloc=no])
  ash_allocator=malloc
  AS_IF([test "x$with_jemalloc" != xno], [
    PKG_CHECK_MODULES([JEMALLOC], [jemalloc >= 5.0])
    ash_allocator=jemalloc
    AC_DEFINE([ASH_JEMALLOC], [1], [Memory comes from jemalloc])])])

dnl ASH_OPTIONAL_PKG(NAME, module) - sets NAME_CFLAGS and NAME_LIBS when it is there, HAVE_NAME in config.h.
AC_DEFUN([ASH_OPTIONAL_PKG], [
  PKG_CHECK_MODULES([$1], [$2], [AC_DEFINE([HAVE_$1], [1], [$2 is there])], [AC_MSG_NOTICE([$2: not found])])])

dnl ASH_PEER(NAME, header, library, function) - an engine that bench/ can compare with.
AC_DEFUN([ASH_PEER], [
  ash_have_peer=no
  AC_CHECK_HEADER([$2], [AC_CHECK_LIB([$3], [$4], [ash_have_peer=yes])])
  AS_IF([test "x$ash_have_peer" = xyes], [
    AC_DEFINE([HAVE_$1], [1], [The benchmark can compare with $3])
    $1_LIBS="-l$3"; ash_peers="$ash_peers $3"])
  AC_SUBST([$1_CFLAGS]) AC_SUBST([$1_LIBS])
  AM_CONDITIONAL([HAVE_$1], [test "x$ash_have_peer" = xyes])])
