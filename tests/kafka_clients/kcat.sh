# kcat, as it is when nothing is configured; it only produces: BOOTSTRAP APP PREFIX COUNT
for n in $(seq 0 $(($4 - 1))); do echo "Counter/$3-$n|{\"method\":\"increment\",\"args\":[1]}"; done |
  kcat -b "$1" -t "$2.commands" -P -K '|'
