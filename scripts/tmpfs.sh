#!/usr/bin/env bash
# Lets tests keep their files in memory where there is room: what they write is synced all
# the time, and they are judged by kills of processes, not of machines.
#   tmpfs.sh run COMMAND...  runs COMMAND with VOLE_TEST_TMPFS, a new directory of a tmpfs
#                            that is removed at the end; unset where there is no room
#   tmpfs.sh in BINARY...    is for go test -exec: BINARY, a package's tests, has its
#                            temporary files there
# Loop devices, control groups, mounts and the memory of processes are what packages sandbox
# and cmd/vole are about: their files stay on disk.
set -euo pipefail

# Room of a tmpfs that must be free, and of memory that must be available, in KiB.
readonly room=$((6 << 20)) memory=$((8 << 20))

# usable reports whether /dev/shm is a tmpfs with room, and with user attributes.
usable() {
	[ "$(stat -f -c %T /dev/shm 2>/dev/null)" = tmpfs ] &&
		[ "$(df -k --output=avail /dev/shm | tail -1)" -ge $room ] &&
		[ "$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo)" -ge $memory ]
}

case "$1" in
run)
	shift
	if usable; then
		VOLE_TEST_TMPFS=$(mktemp -d /dev/shm/vole-test.XXXXXX)
		chmod 1777 "$VOLE_TEST_TMPFS" # as /tmp: some tests work as other users
		export VOLE_TEST_TMPFS
		trap 'rm -rf "$VOLE_TEST_TMPFS"' EXIT
		trap 'exit 130' INT TERM
	fi
	"$@"
	;;
in)
	shift
	case "$PWD" in
	*/sandbox | */sandbox/* | */cmd/vole) ;;
	*) [ -z "${VOLE_TEST_TMPFS:-}" ] || export TMPDIR=$VOLE_TEST_TMPFS ;;
	esac
	exec "$@"
	;;
esac
