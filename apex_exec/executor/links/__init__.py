"""One worker as a link: what it may say, what that means, how it ends."""
