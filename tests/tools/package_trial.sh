#!/bin/sh
# Installs, upgrades, removes and purges the Debian package in a clean root file system, and says what is there after each
# step. Exit code 1 at the first thing that is not as promised.
#
#   package_trial.sh bookworm dist/in-jumpcloud_0.1.0_amd64.deb       makes the root with debootstrap; needs root
#   package_trial.sh --inside dist/in-jumpcloud_0.1.0_amd64.deb       in a root or container made for this
#
# Both use the network only for the package mirror; everything else is on the loopback interface.
set -eu

if [ "$1" != --inside ]; then
    suite=$1 package=$2
    root=$(mktemp -d "${TMPDIR:-/tmp}/package-trial.XXXXXX")
    chmod 0755 "$root"
    trap 'rm -rf "$root"' EXIT
    debootstrap --variant=minbase "$suite" "$root" >"$root.log" 2>&1 || { tail -3 "$root.log"; exit 1; }
    rm "$root.log"
    cp /etc/resolv.conf /etc/hosts "$root/etc/"
    cp "$0" "$root/trial.sh"
    cp "$package" "$root/"
    # A mount namespace of its own: nothing stays mounted, and the /dev of the host is never there.
    unshare --mount --propagation private sh -c "mount -t proc proc '$root/proc' &&
        chroot '$root' sh /trial.sh --inside '/$(basename "$package")'"
    exit
fi

package=$2
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
state=/var/lib/in-jumpcloud settings=/etc/in-jumpcloud/jumpcloud.yaml

ok() { echo "ok      $*"; }
fail() { echo "FAILED  $*"; exit 1; }
is() { # WHAT EXPECTED ACTUAL
    [ "$2" = "$3" ] || fail "$1: expected '$2', got '$3'"
    ok "$1: $3"
}
exists() { for each in "$@"; do [ -e "$each" ] || fail "$each is missing"; ok "$each exists"; done; }
gone() { for each in "$@"; do [ ! -e "$each" ] && [ ! -L "$each" ] || fail "$each still exists"; ok "$each is gone"; done; }
step() { printf '\n== %s\n' "$*"; }
acknowledged() { # the events that the state has
    runuser -u in-jumpcloud -- in-jumpcloud status -c "$settings" --json | python3 -c '
import json, sys
print(sum(each["acknowledged"] for each in json.load(sys.stdin)["streams"]))'
}
deliver() { # catches up once, and prints the events that a receiver got
    in-jumpcloud simulate receiver --shared-key "" >/tmp/receiver.out 2>/tmp/receiver.err &
    receiver=$!
    runuser -u in-jumpcloud -- in-jumpcloud run --once -c "$settings" >/tmp/run.log 2>&1 || { tail -5 /tmp/run.log; fail "run"; }
    kill "$receiver"
    wait "$receiver" || true
    wc -l </tmp/receiver.out
}

step "$(sed -n 's/^PRETTY_NAME=//p' /etc/os-release)"
apt-get update -qq
apt-get install -y -qq --no-install-recommends "$package" >/tmp/apt.log 2>&1 || { tail -5 /tmp/apt.log; fail "installation"; }

step "installed"
version=$(dpkg-deb --field "$package" Version)
is "status" "ii" "$(dpkg-query --showformat '${db:Status-Abbrev}' --show in-jumpcloud | tr -d ' ')"
is "command" "in-jumpcloud $version" "$(in-jumpcloud --version)"
is "modules from" "/opt/in-jumpcloud" "$(/opt/in-jumpcloud/bin/python3 -c 'import msgspec; print(msgspec.__file__[:17])')"
is "extension modules" "True True" "$(/opt/in-jumpcloud/bin/python3 -c 'import yaml, maxminddb.extension; print(yaml.__with_libyaml__, True)')"
is "state directory" "700 in-jumpcloud" "$(stat --format '%a %U' $state)"
is "shell of the user" "/usr/sbin/nologin" "$(getent passwd in-jumpcloud | cut -d: -f7)"
exists "$settings" /usr/lib/systemd/system/in-jumpcloud.service
is "enabled" "disabled" "$(systemctl is-enabled in-jumpcloud.service || true)"
is "changed files" "" "$(dpkg --verify in-jumpcloud)"
(cd / && runuser -u nobody -- in-jumpcloud demo >/tmp/demo.log 2>&1) || { tail -5 /tmp/demo.log; fail "demo"; }
ok "demo: $(tail -1 /tmp/demo.log)"

step "in use"
in-jumpcloud simulate api --since 1h --per-minute 30 >/tmp/api.log 2>&1 &
api=$!
printf '# ours\n' >>"$settings"
sed -i 's|region: us .*|url: http://127.0.0.1:8080|' "$settings"
printf simulated-key >/etc/in-jumpcloud/jumpcloud-api-key
chgrp in-jumpcloud /etc/in-jumpcloud/jumpcloud-api-key && chmod 0640 /etc/in-jumpcloud/jumpcloud-api-key
systemctl enable in-jumpcloud.service >/dev/null 2>&1
is "enabled" "enabled" "$(systemctl is-enabled in-jumpcloud.service)"
first=$(deliver)
[ "$first" -gt 0 ] || fail "nothing was delivered"
ok "delivered: $first"
before=$(acknowledged)
is "acknowledged" "$first" "$before"

step "upgraded, to a package with another configuration file"
next=$(mktemp -d)
dpkg-deb --raw-extract "$package" "$next/tree"
sed -i "s/^Version: .*/Version: $version+1/" "$next/tree/DEBIAN/control"
printf '# theirs\n' >>"$next/tree$settings"
dpkg-deb --root-owner-group --build "$next/tree" "$next/next.deb" >/dev/null
dpkg --install --force-confdef --force-confold "$next/next.deb" >/tmp/dpkg.log 2>&1 || { tail -5 /tmp/dpkg.log; fail "upgrade"; }
is "version" "$version+1" "$(dpkg-query --showformat '${Version}' --show in-jumpcloud)"
is "our configuration" "# ours" "$(tail -1 $settings)"
is "their configuration" "# theirs" "$(tail -1 $settings.dpkg-dist)"
is "enabled" "enabled" "$(systemctl is-enabled in-jumpcloud.service)"
is "acknowledged" "$before" "$(acknowledged)"
again=$(deliver)
is "events in the state, once each" "$((before + again))" "$(acknowledged)"
[ "$again" -lt "$first" ] || fail "$again events were delivered again"
ok "delivered after the upgrade: $again, new ones only"
before=$(acknowledged)

step "removed"
dpkg --remove in-jumpcloud >/tmp/dpkg.log 2>&1 || { tail -5 /tmp/dpkg.log; fail "removal"; }
! grep "not empty" /tmp/dpkg.log || fail "files are left"
gone /opt/in-jumpcloud /usr/bin/in-jumpcloud /usr/lib/systemd/system/in-jumpcloud.service
gone /etc/systemd/system/multi-user.target.wants/in-jumpcloud.service
exists "$settings" /etc/in-jumpcloud/jumpcloud-api-key "$state/in-jumpcloud.db"

step "installed again"
dpkg --install --force-confdef --force-confold "$package" >/tmp/dpkg.log 2>&1 || { tail -5 /tmp/dpkg.log; fail "installation"; }
is "our configuration" "# ours" "$(tail -1 $settings)"
is "acknowledged" "$before" "$(acknowledged)"
kill "$api"

step "purged"
dpkg --purge in-jumpcloud >/tmp/dpkg.log 2>&1 || { tail -5 /tmp/dpkg.log; fail "purge"; }
gone /opt/in-jumpcloud "$state" /etc/in-jumpcloud
is "user" "" "$(getent passwd in-jumpcloud || true)"
is "files anywhere" "" "$(find / -xdev -path /proc -prune -o -name '*in-jumpcloud*' ! -path '/tmp/*' ! -path "$package" -print)"
echo
echo "as promised"
