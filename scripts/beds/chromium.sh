#!/usr/bin/env bash
# A browser with its sandbox shows a page: prints what the page has become, and a
# sum of the picture.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export HOME=$dir
cat >"$dir/page.html" <<'END'
<body style="background: #cfc"><canvas id="c" width="200" height="100"></canvas><script>
let c = document.getElementById("c").getContext("2d");
c.fillStyle = "red";
c.fillRect(10, 10, 80, 60);
new Worker(URL.createObjectURL(new Blob(["postMessage([...Array(1000).keys()].reduce((a, b) => a + b))"])))
    .onmessage = (event) => document.body.append("sum " + event.data);
</script></body>
END
chromium --headless --disable-gpu --disable-quic --no-first-run --disable-background-networking \
    --user-data-dir="$dir/data" --virtual-time-budget=2000 --screenshot="$dir/picture.png" --dump-dom \
    "file://$dir/page.html" 2>/dev/null
sha256sum <"$dir/picture.png"
