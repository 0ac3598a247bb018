#!/bin/sh
# Install Debian's Slurm and munge for tests/workflow/test_slurm.py, and let none of their services start.
set -eu
if command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Slurm is installed on Debian, as root; its tests are skipped here."
    exit 0
fi
policy=/usr/sbin/policy-rc.d # packages ask it before they start a service; 101 says no
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge
