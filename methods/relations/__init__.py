"""Knowledge in the relations: how images, layers or channels stand to one another."""
