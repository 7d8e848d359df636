#!/usr/bin/env bash
# Runs every fuzz target of the module for the given time each: fuzz.sh [30s]
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-30s}
go=${GO:-go}
found=0

# go test fuzzes one target of one package at a time.
while IFS=: read -r file func; do
	found=$((found + 1))
	echo "fuzz ${file%/*} $func for $time"
	log=$(mktemp)
	if ! "$go" test -run '^$' -fuzz "^$func\$" -fuzztime "$time" -fuzzminimizetime 1s "./${file%/*}" 2>&1 | tee "$log"; then
		# The engine may trip over its own deadline at the end of the time, with
		# nothing found (golang.org/issue/48591).
		if grep -q 'Failing input written' "$log" || ! grep -q 'context deadline exceeded' "$log"; then
			rm -f "$log"
			exit 1
		fi
		echo "fuzz $func: the engine ran out of time; nothing was found"
	fi
	rm -f "$log"
done < <(grep -roE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . |
	sed -E 's/^\.\///; s/:func /:/' | sort)
echo "$found fuzz targets passed"
