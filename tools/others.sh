#!/bin/sh
# Run tests with each other Python of this machine that rusb supports, of each version
# one, in an environment of its own.
#   others.sh PYTHON TEST ...       PYTHON has run them already
set -eu
seen=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
shift
for python in python3.11 python3.12 python3.13 python3.14 \
    "$HOME"/.pyenv/versions/3.1[1-4].*/bin/python
do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
        continue # not here, or a wrapper for what is not here
    case " $seen " in *" $version "*) continue ;; esac
    seen="$seen $version"
    folder=.make/python$version
    sh tools/setup.sh venv "$python" "$folder"
    "$folder/bin/python" -m pip install --quiet --no-compile --editable '.[test]'
    printf 'Python %s:\n' "$version"
    "$folder/bin/python" -m pytest -q -n 2 -p no:cacheprovider \
        -m "not fuzz and not soak" "$@"
done
printf 'tested with Python %s\n' "$seen"
