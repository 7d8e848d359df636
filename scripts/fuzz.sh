#!/usr/bin/env bash
# Runs every fuzz target of the module for the given time each: fuzz.sh [30s]
# One package at a time for each processor. A package's tests are built once, and its targets
# run from that binary one after another, by one worker each.
set -euo pipefail
cd "$(dirname "$0")/.."
export GO=${GO:-go}

# target runs one target of the binary, from the package's directory. What go test would do is
# done here: the engine keeps the inputs that it finds in the cache of the go command.
target() {
	local binary=$1 package=$2 name=$3 time=$4 log
	log=$(mktemp)
	echo "fuzz $package $name for $time"
	if ! "$binary" -test.run '^$' -test.fuzz "^$name\$" -test.fuzztime "$time" -test.fuzzminimizetime 1s \
		-test.parallel 1 -test.fuzzcachedir "$("$GO" env GOCACHE)/fuzz/$package" 2>&1 | tee "$log"; then
		# The engine may trip over its own deadline at the end of the time, with
		# nothing found (golang.org/issue/48591).
		if grep -q 'Failing input written' "$log" || ! grep -q 'context deadline exceeded' "$log"; then
			rm -f "$log"
			return 1
		fi
		echo "fuzz $name: the engine ran out of time; nothing was found"
	fi
	rm -f "$log"
}

# package_targets builds a package's tests and runs each target. The output is printed at the
# end, in one piece: another package runs beside it.
package_targets() {
	local dir=$1 time=$2 name package
	work=$(mktemp -d)
	trap 'cat "$work/log"; rm -rf "$work"' EXIT
	{
		package=$("$GO" list "./$dir")
		"$GO" test -c -fuzz=. -ldflags=-s -o "$work/test" "./$dir"
		cd "$dir"
		for name in $("$work/test" -test.list '^Fuzz'); do
			target "$work/test" "$package" "$name" "$time"
			echo "$name" >>"$3"
		done
	} >"$work/log" 2>&1
}

if [ "${1:-}" = --package ]; then
	package_targets "$4" "$2" "$3"
	exit
fi

time=${1:-30s}
passed=$(mktemp)
trap 'rm -f "$passed"' EXIT
declared=$(grep -rhoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | wc -l)
grep -rlE --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sed 's/^\.\///' | sort -u |
	xargs -P "$(getconf _NPROCESSORS_ONLN)" -n1 bash "$0" --package "$time" "$passed"
count=$(wc -l <"$passed")
[ "$count" = "$declared" ] || {
	echo "only $count of $declared fuzz targets ran" >&2
	exit 1
}
echo "$count fuzz targets passed"
