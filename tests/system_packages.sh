#!/bin/sh
# A browser with Chinese letters for the dashboard's tests and Fashion-MNIST for the privacy ones, from Debian; needs root.
# What is missing is skipped, by name.
missing=
command -v chromium >/dev/null || missing="$missing chromium"
[ -n "$(fc-list :lang=zh 2>/dev/null)" ] || missing="$missing fonts-wqy-zenhei"
[ -d /usr/share/datasets/fashion-mnist ] || missing="$missing dataset-fashion-mnist"
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "not root, or not Debian: tests that need$missing will be skipped"
    exit 0
fi
apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null || echo "tests that need$missing will be skipped"
