"""Where generations come from: one port, and a dialect per wire grammar."""
