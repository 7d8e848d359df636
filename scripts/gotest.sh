#!/usr/bin/env bash
# How `make test` and `make race` run the tests of packages.
#
# In memory, where there is room: what tests write is synced all the time, and they are judged
# by kills of processes, not of machines. Loop devices, control groups, mounts and the memory
# of processes are what packages sandbox and cmd/vole are about: their files stay on disk, but for
# those scripts of cmd/vole that are about none of these (script_test.go).
#
# In two parts, as the gate has it: scripts/raced.txt says which tests of which packages run
# under the race detector; the others run without it. The same pattern selects the tests of the
# first part and skips them in the second, so that every test belongs to exactly one.
#
#   gotest.sh run COMMAND...  runs COMMAND with VOLE_TEST_TMPFS, a new directory of a tmpfs
#                             that is removed at the end; unset where there is no room
#   gotest.sh packages PART   lists the packages of a part, raced or unraced
#   gotest.sh exec PART BINARY...
#                             is for go test -exec: BINARY, a package's tests, of that part (all:
#                             both), with its temporary files in VOLE_TEST_TMPFS
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

# Room of a tmpfs that must be free, and of memory that must be available, in KiB.
readonly room=$((6 << 20)) memory=$((8 << 20))

# tmpfs_usable reports whether /dev/shm is a tmpfs with room, and with user attributes.
tmpfs_usable() {
	[ "$(stat -f -c %T /dev/shm 2>/dev/null)" = tmpfs ] &&
		[ "$(df -k --output=avail /dev/shm | tail -1)" -ge $room ] &&
		[ "$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo)" -ge $memory ]
}

# raced_tests prints the lines PACKAGE PATTERN of raced.txt.
raced_tests() { sed '/^#/d; /^$/d' "$root/scripts/raced.txt"; }

# module_packages lists the packages of the module by their folders.
module_packages() {
	(cd "$root" && "${GO:-go}" list -f '{{.Dir}}' ./...) | sed "s|^$root\$|.|; s|^$root/||"
}

case "$1" in
run)
	shift
	if tmpfs_usable; then
		VOLE_TEST_TMPFS=$(mktemp -d /dev/shm/vole-test.XXXXXX)
		chmod 1777 "$VOLE_TEST_TMPFS" # as /tmp: some tests work as other users
		export VOLE_TEST_TMPFS
		trap 'rm -rf "$VOLE_TEST_TMPFS"' EXIT
		trap 'exit 130' INT TERM
	fi
	"$@"
	;;
packages)
	case "$2" in
	raced) raced_tests | cut -d' ' -f1 ;;
	# All but those of which the first part leaves nothing.
	unraced) module_packages | grep -vxF "$(raced_tests | sed -n 's/ \.$//p')" ;;
	esac | sed 's|^\./*||; s|^|./|'
	;;
exec)
	part=$2
	shift 2
	package=${PWD#"$root"}
	package=${package#/}
	pattern=$(raced_tests | awk -v p="${package:-.}" '$1 == p { print $2 }')
	case "$package" in
	sandbox | sandbox/* | cmd/vole) ;;
	*) [ -z "${VOLE_TEST_TMPFS:-}" ] || export TMPDIR=$VOLE_TEST_TMPFS ;;
	esac
	# Tests hold little: with more garbage between collections they take a sixth less processor
	# time. Tests that bound memory set what they need.
	export GOGC=${GOGC:-400}
	binary=$1
	shift
	case "$part" in
	raced) exec "$binary" -test.run="${pattern:?}" "$@" ;;
	unraced) exec "$binary" ${pattern:+-test.skip="$pattern"} "$@" ;;
	all) exec "$binary" "$@" ;;
	esac
	;;
esac
