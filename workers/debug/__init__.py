"""A worker under a debugger, without the jail: for `apex-exec plugin debug`, on an author's own machine."""
