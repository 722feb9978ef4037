"""Knowledge in the labels: there is no teacher."""
