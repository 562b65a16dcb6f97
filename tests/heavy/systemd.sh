#!/bin/bash
# The units under a real systemd: systemd.sh [BINARY]. Half a minute.
#
# systemd runs as the first process of namespaces of its own, on an overlay of this machine's files that is gone
# afterwards; the network is the machine's, and only loopback is used. There the service of the machine is installed as
# the program does it, started by the first request, taken through a login, three refreshes, a restart under load and a
# hang that its watchdog notices, all under the restrictions of its unit; then the one of a user, through a login.
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=$(realpath "${1:-target/release/pleo-proxy}")

skip() { echo "systemd: skipped, $*"; exit 0; }
[ "$(id -u)" -eq 0 ] || skip "it needs root"
systemd=/lib/systemd/systemd
[ -x $systemd ] || skip "there is no systemd (Debian package systemd)"
version=$($systemd --version | sed -n '1s/[^0-9]*\([0-9]*\).*/\1/p')
[ "$version" -ge 250 ] || skip "systemd $version is older than 250"
for tool in unshare nsenter findmnt setpriv python3 curl dbus-daemon; do
    command -v $tool >/dev/null || skip "there is no $tool"
done

tree=$(findmnt --types cgroup2 --noheadings --output TARGET | head -1)
[ -n "$tree" ] || skip "no cgroup2 is mounted"
work=$(mktemp -d)
log=$work/log
# What systemd makes there is removed again.
group=$tree/pleo-proxy-test-$$
outer='' sandbox='' inner=''
cleanup() {
    [ -z "$sandbox" ] || kill "$sandbox" 2>/dev/null || true
    # The first process of a pid namespace takes all others with it.
    [ -z "$inner" ] || kill -KILL "$inner" 2>/dev/null || true
    [ -z "$outer" ] || wait "$outer" 2>/dev/null || true
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
fail() {
    echo "systemd: $*" >&2
    [ -z "$inner" ] || in_it systemctl status --no-pager -n 40 "pleo-proxy*" >&2 || true
    tail -15 "$log" >&2 || true
    exit 1
}
# No command that fails ends the script without a word.
set -E
trap 'fail "line $LINENO: $BASH_COMMAND"' ERR
wait_for() { # wait_for WHAT COMMAND...
    local what=$1 tries=0
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || fail "$what: not within half a minute"
        sleep 0.1
    done
}

cat >"$work/boot" <<'BOOT'
set -eu
work=$1 systemd=$2
mount --make-rprivate /
mkdir "$work/fs"
mount -t tmpfs tmpfs "$work/fs"
root=$work/fs/root
mkdir "$work/fs/upper" "$work/fs/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/fs/upper,workdir=$work/fs/work" "$root"
mount -t proc proc "$root/proc"
# The kernel is the machine's: its settings are not touched.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,ro,bind "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for place in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs "$root/$place"; done
chmod 1777 "$root/tmp"
for device in null zero full random urandom tty; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
rm -f "$root/etc/machine-id"
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
# Nothing but what the service needs, whatever this machine would start.
rm -rf "$root"/etc/systemd/system/*.wants "$root"/etc/systemd/system/pleo-proxy*
printf '[Unit]\nRequires=systemd-journald.service dbus.socket\nAfter=systemd-journald.service dbus.socket\n' \
    >"$root/etc/systemd/system/test.target"
cd "$root"
mkdir old
pivot_root . old
umount -l /old
# As systemd has it outside of containers: credentials are mounted for a service.
mount --make-rshared /
exec env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container=test \
    "$systemd" --system --unit=test.target --log-target=console --show-status=0
BOOT
mkdir "$group" || skip "no group of processes can be made in $tree"
(
    echo "$BASHPID" >"$group/cgroup.procs"
    exec unshare --mount --pid --ipc --uts --cgroup --fork --kill-child bash "$work/boot" "$work" $systemd
) >"$log" 2>&1 &
outer=$!
child() { inner=$(cat "/proc/$outer/task/$outer/children"); inner=${inner%% *}; [ -n "$inner" ]; }
wait_for "the first process" child
inner=$(cat "/proc/$outer/task/$outer/children") inner=${inner%% *}
in_it() { nsenter --target "$inner" --mount --pid --ipc --uts --cgroup "$@"; }
is_up() { in_it systemctl is-active --quiet test.target; }
for _ in $(seq 100); do
    is_up 2>/dev/null && break
    kill -0 "$inner" 2>/dev/null || skip "systemd does not run in namespaces here: $(tail -1 "$log")"
    sleep 0.1
done
is_up || skip "systemd does not come up in namespaces here: $(tail -1 "$log")"

# A fake Pleo outside, whose tokens are valid for a moment.
"$binary" --json sandbox --listen 127.0.0.1:0 --files 127.0.0.1:0 --auto-consent --access-life-ms 2000 \
    --rate-limit 0 >"$work/ready" 2>/dev/null &
sandbox=$!
wait_for "the sandbox" grep -q '"ready"' "$work/ready"
pleo=$(sed -n 's/.*"api":"\([^"]*\)".*/\1/p' "$work/ready")
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
api=127.0.0.1:$(port) admin=127.0.0.1:$(port)

in_it sh -c 'cat >/usr/local/bin/pleo-proxy; chmod 755 /usr/local/bin/pleo-proxy; mkdir -p /etc/pleo-proxy' <"$binary"
in_it sh -c 'cat >/etc/pleo-proxy/proxy.toml' <<CONFIG
environment = "staging"
[listen]
api = "$api"
admin = "$admin"
[client]
id = "sandbox-client"
scopes = ["companies:read"]
[endpoints]
authorize = "$pleo/oauth/authorize"
token = "$pleo/oauth/token"
introspect = "$pleo/oauth/token/introspect"
api = "$pleo"
[guard]
peer_check = [1000]
CONFIG
in_it sh -c 'umask 077; echo sandbox-secret >/etc/pleo-proxy/client-secret'
in_it sh -c 'cd / && pleo-proxy service install --system' >/dev/null 2>&1 || fail "the units were not installed"
# More starts within ten seconds than systemd lets pass.
in_it sh -c 'mkdir -p /run/systemd/system/pleo-proxy.service.d
    printf "[Unit]\nStartLimitIntervalSec=0\n" >/run/systemd/system/pleo-proxy.service.d/starts.conf'
in_it systemctl daemon-reload
in_it systemctl enable --quiet --now pleo-proxy.socket pleo-proxy-admin.socket
! in_it systemctl is-active --quiet pleo-proxy.service || fail "the service runs before the first request"
in_it sh -c 'cd / && pleo-proxy service status --system' >/dev/null || fail "service status"

as() { # as USER ARGUMENTS...: curl by a user of this machine
    local user=$1
    shift
    setpriv --reuid="$user" --regid="$user" --clear-groups curl -sS --max-time 30 "$@"
}
# The first request starts it.
[ "$(as 1000 -o /dev/null -w '%{http_code}' "http://$admin/health" || true)" = 200 ] || fail "the first request"
in_it systemctl is-active --quiet pleo-proxy.service || fail "the service does not run"
pid=$(in_it systemctl show --property=MainPID --value pleo-proxy)
status=$(in_it cat "/proc/$pid/status")
grep -q 'Seccomp:.2' <<<"$status" || fail "no filter of system calls"
grep -q 'CapBnd:.0000000000000000' <<<"$status" || fail "capabilities"
# Another user is told who may call.
as 1001 "http://$api/v1/companies" | grep -q 'guard.peer_check' || fail "another user is not refused in words"

# A login, as a browser of user 1000 would do it.
key=$(in_it cat /var/lib/private/pleo-proxy/staging/admin.key)
place=$(as 1000 -X POST -H "Authorization: Bearer $key" "http://$admin/api/accounts/default/login" |
    sed -n 's/.*"authorize_url":"\([^"]*\)".*/\1/p')
[ "$(as 1000 -L -o /dev/null -w '%{http_code}' "$place")" = 200 ] || fail "the login"

# Commands run as the service's user, as docs/service.md says.
commands() {
    in_it systemd-run --quiet --pipe --wait --collect --property=DynamicUser=yes --property=User=pleo-proxy \
        --property=StateDirectory=pleo-proxy --property=StateDirectoryMode=0700 --setenv=XDG_STATE_HOME=/var/lib \
        --property=LoadCredential=client-secret:/etc/pleo-proxy/client-secret \
        pleo-proxy --config /etc/pleo-proxy/proxy.toml "$@"
}
told=$(commands status --json 2>&1) || fail "status as the service's user: $told"
grep -q '"running":true\|"pid":[0-9]' <<<"$told" || fail "status does not see the service: $told"

posts() { curl -sS -H 'X-Sandbox-Control: 1' "$pleo/sandbox/counters" | sed -n 's/.*"token_posts":\([0-9]*\).*/\1/p'; }
ask() { as 1000 -o /dev/null -w '%{http_code}\n' "http://$api/v1/companies" || echo cut; }
first=$(posts)
refreshed() { [ "$(ask)" = 200 ] || fail "a request failed"; [ "$(posts)" -ge $((first + 3)) ]; }
wait_for "three refreshes" refreshed

# A restart under load.
for _ in $(seq 4); do
    (while [ ! -e "$work/enough" ]; do ask; done) &
done >"$work/answers"
loads=$(jobs -p | grep -vxE "$outer|$sandbox")
for _ in 1 2 3; do
    in_it systemctl restart pleo-proxy.service || fail "the restart"
done
touch "$work/enough"
# shellcheck disable=SC2086
wait $loads
[ "$(sort -u "$work/answers")" = 200 ] || fail "requests were refused or cut: $(sort "$work/answers" | uniq -c)"

# A process that hangs is ended by the watchdog, and the next one serves.
in_it sh -c 'printf "[Service]\nWatchdogSec=1\nTimeoutAbortSec=1\nRestartSec=0\n" >/run/systemd/system/pleo-proxy.service.d/test.conf'
in_it systemctl daemon-reload
in_it systemctl restart pleo-proxy.service
in_it systemctl kill --signal=STOP pleo-proxy.service
restarted() { [ "$(in_it systemctl show --property=NRestarts --value pleo-proxy)" -ge 1 ]; }
wait_for "the watchdog" restarted
[ "$(ask)" = 200 ] || fail "after the watchdog"

replays=$(curl -sS -H 'X-Sandbox-Control: 1' "$pleo/sandbox/counters" | sed -n 's/.*"refresh_replays":\([0-9]*\).*/\1/p')
[ "$replays" = 0 ] || fail "a refresh token was sent twice"
in_it sh -c 'cd / && pleo-proxy service uninstall --system' >/dev/null 2>&1 || fail "service uninstall"
! in_it systemctl is-active --quiet pleo-proxy.socket || fail "the socket is still there"

# The same as a service of user 1000, by the manager of that user.
in_it sh -c 'mkdir -p /run/user/1000 /tmp/home/.config/pleo-proxy && cd /tmp/home/.config/pleo-proxy &&
    sed "s/^peer_check.*/peer_check = \"same-user\"/" /etc/pleo-proxy/proxy.toml >proxy.toml &&
    cp /etc/pleo-proxy/client-secret . && chown -R 1000:1000 /run/user/1000 /tmp/home && chmod 700 /run/user/1000'
in_it systemd-run --quiet --unit=manager --uid=1000 --gid=1000 --property=Delegate=yes --property=Type=notify \
    --setenv=XDG_RUNTIME_DIR=/run/user/1000 --setenv=HOME=/tmp/home $systemd --user || fail "the manager of a user"
by_user() {
    in_it setpriv --reuid=1000 --regid=1000 --clear-groups env -C /tmp/home HOME=/tmp/home \
        XDG_RUNTIME_DIR=/run/user/1000 "$@"
}
by_user pleo-proxy service install >/dev/null 2>&1 || fail "the units of a user were not installed"
by_user systemctl --user daemon-reload
by_user systemctl --user enable --quiet --now pleo-proxy.socket pleo-proxy-admin.socket
as 1000 "http://$api/v1/companies" | grep -q login_required || fail "the first request to a user's service"
by_user systemctl --user is-active --quiet pleo-proxy.service || fail "a user's service does not run"
by_user pleo-proxy login --no-browser >"$work/login" 2>&1 &
login=$!
place() { grep -oE 'http://[^ ]*/oauth/authorize[^ ]*' "$work/login"; }
wait_for "the address of a login" place
[ "$(as 1000 -L -o /dev/null -w '%{http_code}' "$(place)")" = 200 ] || fail "the login of a user's service"
wait $login || fail "the login command: $(cat "$work/login")"
[ "$(ask)" = 200 ] || fail "a request to a user's service"
by_user pleo-proxy service uninstall >/dev/null 2>&1 || fail "service uninstall of a user"
! by_user systemctl --user is-active --quiet pleo-proxy.socket || fail "the user's socket is still there"

echo "systemd $version: socket activation, a login, 3 refreshes, 3 restarts under load" \
    "($(wc -l <"$work/answers") requests, all 200) and a hang, under the unit's restrictions; and a user's service"
