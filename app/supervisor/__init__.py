"""Everything on one machine: the embedded servers, and the service's processes above them."""
