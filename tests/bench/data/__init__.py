"""The data plane beside rsync and scp, over the same sshd."""
