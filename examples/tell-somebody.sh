#!/bin/sh
# A hook of pleo-proxy that tells somebody what has happened to an account. Copy it beside your proxy.toml:
#
#     [hooks]
#     on_login_required = "./tell-somebody.sh"
#     on_recovered = "./tell-somebody.sh"
#     on_grant_age = "./tell-somebody.sh"
#
# It posts the text to the address in the file `webhook` beside it, if there is one (chmod 600: whoever knows such an
# address can write to it), else shows it on the desktop, else prints it into the proxy's log.
set -eu
text="Pleo account $PLEO_PROXY_ACCOUNT ($PLEO_PROXY_ENVIRONMENT): $PLEO_PROXY_EVENT, $PLEO_PROXY_REASON"
[ -z "$PLEO_PROXY_FIX" ] || text="$text. Run: $PLEO_PROXY_FIX"
if [ -r webhook ]; then
    # The address by way of stdin: other users of the machine can read arguments.
    printf 'url = "%s"\n' "$(cat webhook)" |
        curl --config - --silent --show-error --fail --max-time 20 --output /dev/null \
            --header 'Content-Type: text/plain; charset=utf-8' --data-binary "$text"
elif command -v notify-send >/dev/null && [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]; then
    notify-send pleo-proxy "$text"
else
    echo "$text"
fi
