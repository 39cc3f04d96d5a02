#!/bin/sh
# Called by udhcpc with what the network's server has told.
case $1 in
    bound | renew)
        ip address add "$ip/${mask:-24}" dev "$interface"
        [ -n "$router" ] && ip route add default via "${router%% *}"
        for server in $dns; do
            echo "nameserver $server"
        done > /etc/resolv.conf
        ;;
esac
