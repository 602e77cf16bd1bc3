"""kornia's contract around the network: ``TARMatcher``, its inputs, land-cover maps, the door to vismatch."""
