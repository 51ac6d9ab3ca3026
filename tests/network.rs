//! The machine's network, from a router that is a container of the same machine: one boot.

use super::boot::{Machine, assert_order};
use super::support::Space;

/// The router has the other end of the card `wan0`, and Debian's dnsmasq.
const SYSTEM: &str = r#"
kernel:
  debian: {suite: bookworm, packages: [linux-image-cloud-amd64]}
  modules: [overlay, veth]
  cmdline: console=ttyS0 quiet ip=:::::wan0:dhcp
init: [kiln]
services:
  - name: router
    debian: {suite: bookworm, packages: [busybox-static, dnsmasq-base]}
    net: new
    capabilities: [all]
    env: [PATH=/usr/sbin:/usr/bin:/sbin:/bin]
    runtime:
      interfaces:
        - {name: lan0, add: veth, peer: wan0}
    command:
      - /bin/busybox
      - sh
      - -exc
      - |
        ip addr add fd00:6::1/64 dev lan0
        ip addr add 10.6.0.1/24 dev lan0
        ip link set lan0 up
        exec dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --interface=lan0 \
            --user=root --pid-file= --dhcp-leasefile=/leases --enable-ra \
            --dhcp-range=10.6.0.100,10.6.0.199 --domain=four.example \
            --dhcp-option=option:dns-server,10.6.0.53 \
            --dhcp-range=fd00:6::100,fd00:6::1ff,64 \
            --dhcp-option=option6:dns-server,[fd00:6::53] \
            --dhcp-option=option6:domain-search,six.example
  - name: look
    debian: {suite: bookworm, packages: [busybox-static]}
    pid: host
    capabilities: [CAP_KILL, CAP_NET_RAW]
    binds: ["/run:/machine"]
    command:
      - /bin/busybox
      - sh
      - -c
      - |
        busybox --install -s /bin
        conf=/machine/resolvconf/resolv.conf
        until grep -q 10.6 $conf && grep -q six $conf && ip addr show dev wan0 | grep fd00:6::1; do
            sleep 0.2
        done 2>/dev/null
        while ip addr show dev wan0 | grep -q tentative; do sleep 0.2; done
        ip addr show dev wan0
        cat $conf
        ping -6 -c 1 -W 5 fd00:6::1
        kill -USR2 1
    env: [PATH=/bin]
"#;

#[test]
fn a_router_gives_addresses_and_names_of_both_kinds() {
    let space = Space::new();
    space.write("box.yml", SYSTEM);
    let arguments = ["--accel", "tcg", "--networking", "none", "box.yml"];
    let console = Machine::boot(&space, &arguments).end();
    for part in [
        "kiln: wan0: 10.6.0.1",
        "kiln: wan0: fd00:6::1",
        "/128 (DHCPv6, lease 86400 s)",
        "1 packets received",
    ] {
        assert!(console.contains(part), "no \"{part}\" in\n{console}");
    }
    assert_order(
        &console,
        &[
            "search four.example six.example",
            "nameserver 10.6.0.53",
            "nameserver fd00:6::53",
        ],
    );
    // A router announces it, too.
    let count = console.matches("nameserver fd00:6::53").count();
    assert_eq!(count, 1, "{console}");
}
