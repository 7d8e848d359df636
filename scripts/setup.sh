#!/usr/bin/env bash
# Installs what is missing on Debian or Ubuntu, and nothing that is there.
#   setup.sh demo   what `make demo` needs: an OCI runtime
#   setup.sh ci     what the whole gate needs
#   setup.sh servers
#                   what tests, benchmark and torture of the bucket backend need:
#                   PostgreSQL, of which no server is left running, and the S3 server
#                   versitygw, in bin/
#   setup.sh runsc  gVisor's runtime, in bin/, which Debian does not have
#   setup.sh vm     what the test with a virtual machine needs: QEMU, and a kernel, which
#                   is not installed but unpacked in bin/microvm
# As an ordinary user it asks sudo; without sudo it says what to install.
set -euo pipefail
cd "$(dirname "$0")/.."

have() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1; }

go=$(command -v go || echo /usr/local/go/bin/go)

have_postgres() { have initdb || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; }

have_versitygw() {
	have versitygw || [ -x bin/versitygw ] ||
		[ -x "$("$go" env GOBIN)/versitygw" ] || [ -x "$("$go" env GOPATH)/bin/versitygw" ]
}

# Each line: a command that shows the package is there, and the package.
wanted() {
	case "$1" in
	demo)
		have crun || have runc || echo "crun crun"
		[ "$(id -u)" = 0 ] || echo "newuidmap uidmap"
		;;
	ci)
		cat <<-END
			crun crun
			runc runc
			newuidmap uidmap
			mkfs.ext4 e2fsprogs
			gcc gcc
			git git
			tar tar
			strace strace
			runuser util-linux
			node nodejs
			npm npm
		END
		[ -e /usr/include/stdlib.h ] || echo "no-such-command libc6-dev"
		wanted servers
		;;
	servers)
		have_postgres || echo "no-such-command postgresql"
		;;
	vm)
		cat <<-END
			qemu-system-x86_64 qemu-system-x86
			busybox busybox-static
			e2fsck e2fsprogs
			xz xz-utils
		END
		;;
	runsc) ;;
	*)
		echo "setup.sh: say demo, ci, servers, runsc or vm" >&2
		exit 2
		;;
	esac
}

missing=()
while read -r cmd pkg; do
	have "$cmd" || missing+=("$pkg")
done < <(wanted "${1:-demo}")

as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

if [ ${#missing[@]} -gt 0 ]; then
	if ! have apt-get || { [ "$(id -u)" != 0 ] && ! have sudo; }; then
		echo "Please install first: ${missing[*]}" >&2
		exit 1
	fi
	echo "Installing: ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	as_root apt-get update -qq >/dev/null
	# Debian's PostgreSQL makes and starts a server when it is installed; tests start
	# their own. The file says no to that, for this one time.
	quiet=/etc/postgresql-common/createcluster.d/vole-setup.conf
	case " ${missing[*]} " in *" postgresql "*)
		as_root mkdir -p "${quiet%/*}"
		echo "create_main_cluster = false" | as_root tee $quiet >/dev/null
		trap 'as_root rm -f $quiet' EXIT
		;;
	esac
	as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# The kernel's own package would make an initrd and change the boot loader.
if [ "${1:-demo}" = vm ] && ! ls bin/microvm/boot/vmlinuz-* >/dev/null 2>&1; then
	as_root apt-get update -qq >/dev/null
	kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: *//p;T;q')
	echo "Unpacking: $kernel"
	rm -rf bin/microvm
	mkdir -p bin/microvm
	(cd bin/microvm && apt-get download -qq "$kernel" && dpkg-deb -x ./*.deb . && rm ./*.deb)
fi

# The go command itself says when it is too old for go.mod, and fetches the right
# toolchain where it is allowed to.
if ! version=$("$go" env GOVERSION 2>&1); then
	echo "Vole needs Go $(sed -n 's/^go //p' go.mod) or newer from https://go.dev/dl: $version" >&2
	exit 1
fi

# Two minutes of work where it was never built.
case "${1:-demo}" in ci | servers)
	if ! have_versitygw; then
		echo "Building: versitygw"
		CGO_ENABLED=0 GOBIN="$PWD/bin" "$go" install github.com/versity/versitygw/cmd/versitygw@v1.8.0
	fi
	;;
esac

# gVisor's module builds from its branch for the go command only, beneath a module that
# requires it.
if [ "${1:-demo}" = runsc ] && ! have runsc && ! [ -x bin/runsc ]; then
	echo "Building: runsc"
	build=$(mktemp -d)
	trap 'rm -rf "$build"' EXIT
	"$go" -C "$build" mod init runsc.build >/dev/null 2>&1
	"$go" -C "$build" get gvisor.dev/gvisor/runsc@v0.0.0-20260905035102-160fafc42237 >/dev/null
	CGO_ENABLED=0 "$go" -C "$build" build -o "$PWD/bin/runsc" gvisor.dev/gvisor/runsc
fi
