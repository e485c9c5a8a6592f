# A server that takes one key, which whoever looks into the container finds.
mkdir -p /root/.ssh /run/sshd
ssh-keygen -q -t ed25519 -N '' -f /data/host
ssh-keygen -q -t ed25519 -N '' -f /data/key
cp /data/key.pub /root/.ssh/authorized_keys
chmod 700 /root /root/.ssh
: >/data/ready
exec "$(command -v sshd)" -D -e -f /dev/null -p 2222 -o HostKey=/data/host -o UsePAM=no -o PidFile=none -o PasswordAuthentication=no
