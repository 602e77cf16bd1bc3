"""Speed and memory of networks beside each other: who runs, how it is timed, what the device could do at best."""
